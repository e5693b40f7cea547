"""What is in an index."""

import numpy as np

from flashmatch.adapters.faiss.flat import IndexFlat


def get_flat_data(index: IndexFlat) -> np.ndarray:
    """A copy (ntotal, d) float32 of the vectors of a flat index."""
    return index.get_xb().reshape(index.ntotal, index.d)


def get_flat_codes(index_flat: IndexFlat) -> np.ndarray:
    """A copy (ntotal, code_size) uint8 of the same, as bytes."""
    return np.array(index_flat.codes).reshape(index_flat.ntotal, index_flat.code_size)
