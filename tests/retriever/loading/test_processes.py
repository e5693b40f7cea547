"""Two processes that share a loader."""

import warnings
from pathlib import Path
from typing import Any

import torch
from loaded import IMAGES, ROWS, VECTORS, Keyed, Stream, failing, image, named, prepared, without
from torch.utils.data import DataLoader, Subset
from two_processes import in_two_processes

from flashmatch.retriever import collate


def attempts(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def attempt(name: str, loader: Any) -> None:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                retriever = prepared(loader)
                found[name] = retriever.prototype_vecs, retriever.prototype_ids
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
            found[f"{name}, warned"] = [str(one.message) for one in seen]

    attempt("dropped", {"dataset": without(3), "batch_size": 2})
    attempt("dropped, padded", {"dataset": Subset(without(3), range(9)), "batch_size": 2})
    attempt("unnamed", {"dataset": [None if i == 3 else IMAGES[i] for i in range(ROWS)]})
    own: Any = range(3) if rank else range(3, 8)
    attempt("skipped", DataLoader(Keyed(), 2, sampler=own, collate_fn=collate))
    attempt("failing", {"dataset": Keyed(failing), "batch_size": 2})
    attempt("shared", {"dataset": Keyed(lambda i: named(i, lambda i: i % 9)), "batch_size": 2})
    attempt("stream", DataLoader(Stream(named), 4, collate_fn=collate))
    attempt("unnamed stream", DataLoader(Stream(image), 4))
    return found


def test_two_processes_drop_and_refuse_together(tmp_path: Path) -> None:
    both = in_two_processes(attempts, tmp_path)
    for found in both:
        for name, ids in (
            ("dropped", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
            ("dropped, padded", [0, 1, 2, 4, 5, 6, 7, 8]),
            ("stream", [*range(ROWS)]),
        ):
            vectors, own_ids = found[name]
            assert own_ids.tolist() == ids
            torch.testing.assert_close(vectors, VECTORS[ids])
        assert "a batch of 1 samples gave 0 inputs" in found["unnamed"]
        assert "8 distinct samples for the 10 samples" in found["skipped"]
        assert "broken" in found["failing"]
        assert "two have 0, at the positions 0 and 9" in found["shared"]
        assert "give every sample a sample_idx" in found["unnamed stream"]
    assert "left out 1 of 10 samples" in both[0]["dropped, warned"][0]
    assert not both[1]["dropped, warned"]
    assert any("process" in found["failing"] for found in both)
