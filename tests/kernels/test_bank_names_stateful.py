"""Any sequence of additions, removals, searches, saves and copies, against plain dictionaries."""

import copy
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from screens import CODED, screen_in_pieces
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels import PrototypeBank

CHANNELS = 5
NAMES = st.one_of(
    st.sampled_from(["", "\0", "a", "a\0", "\udc80", "\ud83d\ude00", "😀", "é", "e\u0301"]),
    st.text(st.characters(codec=None), max_size=3),
    st.integers(0, 30).map(str),
)
COPIES = [copy.copy, copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))]
MOST_BANKS = 4


class NamesMachine(RuleBasedStateMachine):
    """Banks that were copied from one another, each beside a dictionary of names and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        screen_in_pieces(self.patch, rows=1024)
        self.folder = tempfile.TemporaryDirectory()
        self.banks: list[tuple[PrototypeBank, dict[str, Tensor]]] = []

    def teardown(self) -> None:
        self.patch.undo()
        self.folder.cleanup()

    @initialize(
        names=st.lists(NAMES, unique=True, min_size=1),
        seed=st.integers(0, 2**32),
        screen=st.sampled_from((CODED, "float")),
    )
    def start(self, names: list[str], seed: int, screen: str) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        rows = self._rows(len(names))
        bank = PrototypeBank(rows, ids=names, screen=screen, metric="dot")
        self.banks.append((bank, dict(zip(names, rows, strict=True))))

    @rule(data=st.data(), names=st.lists(NAMES, unique=True), many=st.sampled_from((0, 0, 0, 1100)))
    def add(self, data: st.DataObject, names: list[str], many: int) -> None:
        bank, oracle = self._drawn(data)
        names += [f"{i} of {len(oracle)}" for i in range(many)]
        rows = self._rows(len(names))
        known = [name for name in names if name in oracle]
        if known:
            with pytest.raises(ValueError, match="ids must be new to the bank"):
                bank.add(rows, ids=names)
            keep = torch.tensor([name not in oracle for name in names])
            names, rows = [name for name in names if name not in oracle], rows[keep]
        assert bank.add(rows, ids=names).tolist() == names
        oracle.update(zip(names, rows, strict=True))

    @rule(data=st.data(), share=st.sampled_from((0.0, 0.05, 0.3, 0.8, 1.0)))
    def remove(self, data: st.DataObject, share: float) -> None:
        bank, oracle = self._drawn(data)
        gone = [n for n in oracle if float(torch.rand((), generator=self.generator)) < share]
        order = torch.randperm(len(gone), generator=self.generator).tolist()
        bank.remove([gone[i] for i in order])
        for name in gone:
            del oracle[name]

    @rule(data=st.data(), name=NAMES)
    def replace(self, data: st.DataObject, name: str) -> None:
        bank, oracle = self._drawn(data)
        if name in oracle:
            bank.remove(name)
            del oracle[name]
        else:
            with pytest.raises(ValueError, match="ids must be in the bank"):
                bank.remove(name)
        row = self._rows(1)
        bank.add(row, ids=name)
        oracle[name] = row[0]

    @rule(data=st.data(), masked=st.booleans(), most=st.integers(0, 20))
    def search(self, data: st.DataObject, masked: bool, most: int) -> None:
        bank, oracle = self._drawn(data)
        names, k = list(oracle), min(most, len(oracle))
        rows = torch.stack([*oracle.values()]) if oracle else torch.empty(0, CHANNELS)
        queries = self._rows(3)
        mask = torch.rand(3, len(rows), generator=self.generator) < 0.3 if masked else None
        found = bank.search(queries, k, mask=mask)
        scores, indices = topk(queries, rows, k, metric="dot", mask=mask)
        assert torch.equal(found.scores, scores)
        expected = [[None if i < 0 else names[i] for i in row] for row in indices.tolist()]
        assert found.ids.tolist() == expected

    @rule(data=st.data())
    def save_and_load(self, data: st.DataObject) -> None:
        """To the same file each time, which the banks may be mapped from."""
        number = data.draw(st.integers(0, len(self.banks) - 1))
        bank, oracle = self.banks[number]
        path = Path(self.folder.name) / "bank.safetensors"
        bank.save(path)
        self.banks[number] = PrototypeBank.load(path, check=True), oracle

    @rule(data=st.data(), copied=st.sampled_from(COPIES))
    def copy(self, data: st.DataObject, copied: object) -> None:
        bank, oracle = self._drawn(data)
        if len(self.banks) == MOST_BANKS:
            del self.banks[0]
        self.banks.append((copied(bank), dict(oracle)))  # pyright: ignore

    @invariant()
    def same_names(self) -> None:
        for bank, oracle in self.banks:
            assert bank.ids.tolist() == list(oracle)
            assert len(bank) == len(oracle)

    def _drawn(self, data: st.DataObject) -> tuple[PrototypeBank, dict[str, Tensor]]:
        return self.banks[data.draw(st.integers(0, len(self.banks) - 1))]

    def _rows(self, count: int) -> Tensor:
        return torch.randn(count, CHANNELS, generator=self.generator)


TestNamesMachine = NamesMachine.TestCase
TestNamesMachine.settings = settings(stateful_step_count=25)
TestNamesMachine.pytestmark = [pytest.mark.hypothesis]
