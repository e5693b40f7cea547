"""Files of prototypes: which are refused, by what name, and that none is executed."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from flashmatch.retriever import load_prototypes

VECTORS = torch.ones(11, 6)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_objects_are_not_executed(tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "executed")
    torch.save({"prototypes": VECTORS, "x": bomb}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(bomb, protocol=2))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(ValueError, match="Pickled objects are refused"):
            load_prototypes(tmp_path / name)
    assert not bomb.path.exists()


def test_ambiguous_files_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"one matrix, or one called .* got the keys \['a', 'b'\]"):
        load_prototypes(tmp_path / "two.pt")
    torch.save([torch.ones(2, 2)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a tensor or a dict"):
        load_prototypes(tmp_path / "list.pt")


def test_files_are_named_by_whoever_takes_them(tmp_path: Path) -> None:
    np.save(tmp_path / "gallery.npy", VECTORS.numpy())
    with pytest.raises(ValueError, match=r"numpy\.load reads from it can be given itself"):
        load_prototypes(tmp_path / "gallery.npy")
    with pytest.raises(FileNotFoundError, match=r"path must be an .*; got 'no\.pt', which does"):
        load_prototypes("no.pt")
    torch.save(torch.eye(3).to_sparse(), tmp_path / "sparse.pt")
    with pytest.raises(ValueError, match=r"path: '.*sparse.pt' must be a dense tensor"):
        load_prototypes(tmp_path / "sparse.pt")
