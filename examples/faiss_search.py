"""A script for FAISS, on FAISS or on flashmatch: only the import differs.

    python examples/faiss_search.py                # flashmatch
    python examples/faiss_search.py --with faiss   # FAISS

Data: the 1,797 handwritten digits, 8 x 8 pixels, that ship with scikit-learn. Every second one is
indexed under its number, the others are queries, which take the digit of most of their neighbours.
"""

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec

import numpy as np

LIBRARIES = {"flashmatch": "flashmatch.adapters.faiss", "faiss": "faiss"}


def main(library: str = "flashmatch", k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Distances and labels of the last search."""
    from sklearn.datasets import load_digits

    faiss = import_module(LIBRARIES[library])  # import flashmatch.adapters.faiss as faiss

    pixels, digits = load_digits(return_X_y=True)
    numbers = np.arange(len(digits))
    xb, xq = pixels[::2].astype("float32"), pixels[1::2].astype("float32")

    index = faiss.IndexIDMap2(faiss.IndexFlatL2(xb.shape[1]))
    index.add_with_ids(xb, numbers[::2])
    distances, labels = index.search(xq, k)
    print(f"{index.ntotal} digits indexed, accuracy {_accuracy(digits, labels):.4f}")

    even = faiss.IDSelectorBatch(numbers[digits % 2 == 0])
    _, labels = index.search(xq, k, params=faiss.SearchParameters(sel=even))
    print(f"only even ones:     accuracy {_accuracy(digits, labels):.4f}")

    removed = index.remove_ids(faiss.IDSelectorRange(0, 300))
    distances, labels = index.search(xq, k)
    print(f"{removed} removed:        accuracy {_accuracy(digits, labels):.4f}")
    return distances, labels


def _accuracy(digits: np.ndarray, labels: np.ndarray) -> float:
    """The share of queries that most of their neighbours give the right digit."""
    votes = (digits[labels][:, :, None] == np.arange(10)).sum(1)
    return float((votes.argmax(1) == digits[1::2]).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Find digits alike")
    parser.add_argument("--with", dest="library", choices=LIBRARIES, default="flashmatch")
    library = parser.parse_args().library
    if not find_spec("sklearn"):
        sys.exit(f'{sys.argv[0]} needs scikit-learn: pip install "flashmatch[examples]"')
    if not find_spec(library):
        sys.exit(f'{sys.argv[0]} needs faiss-cpu: pip install "flashmatch[examples]"')
    main(library)
