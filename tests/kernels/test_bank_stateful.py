"""Any sequence of additions, removals, searches and saves, against a bank that is a plain list."""

import tempfile
from pathlib import Path

import pytest
import torch
from features import features
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from problems import DTYPES, METRICS
from screens import CODED, screen_in_pieces
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels import PrototypeBank

KINDS = ("gaussian", "integers", "heavy", "clustered", "identical", "zeros")
SIZES = st.one_of(st.integers(0, 3), st.integers(0, 40), st.integers(0, 1500))


class BankMachine(RuleBasedStateMachine):
    """``rows`` and ``ids`` are the list; whatever the bank says must follow from them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        screen_in_pieces(self.patch, rows=1024)
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self) -> None:
        self.patch.undo()
        self.folder.cleanup()

    @initialize(
        data=st.data(),
        seed=st.integers(0, 2**32),
        metric=st.sampled_from(METRICS),
        dtype=st.sampled_from(DTYPES),
        screen=st.sampled_from((CODED, CODED, "float")),
        channels=st.sampled_from((1, 5, 16)),
        size=SIZES,
    )
    def start(
        self,
        data: st.DataObject,
        seed: int,
        metric: str,
        dtype: torch.dtype,
        screen: str,
        channels: int,
        size: int,
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.channels, self.options = dtype, channels, {"metric": metric}
        self.screen = screen
        self.rows, self.ids, self.highest = torch.empty(0, channels, dtype=dtype), [], -1
        fresh = self._fresh(data, size)
        ids = self._some_ids(data, size)
        self.bank = PrototypeBank(fresh, ids=ids, screen=screen, metric=metric)
        self._append(fresh, ids)

    @rule(data=st.data(), size=SIZES, pieces=st.integers(1, 3))
    def add(self, data: st.DataObject, size: int, pieces: int) -> None:
        fresh, ids = self._fresh(data, size), self._some_ids(data, size)
        chunks = list(fresh.split(max(1, size // pieces))) if pieces > 1 else fresh
        added = self.bank.add(chunks, ids)
        self._append(fresh, ids)
        assert added.tolist() == self.ids[len(self.ids) - size :]

    @rule(share=st.sampled_from((0.0, 0.01, 0.3, 0.8, 1.0)))
    def remove(self, share: float) -> None:
        gone = torch.rand(len(self.ids), generator=self.generator) < share
        order = torch.randperm(int(gone.sum()), generator=self.generator)
        self.bank.remove(torch.tensor(self.ids, dtype=torch.int64)[gone][order])
        self.rows = self.rows[~gone]
        self.ids = [i for i, g in zip(self.ids, gone.tolist(), strict=True) if not g]

    @rule(
        count=st.sampled_from((1, 3, 20)),
        share=st.sampled_from((0.0, 0.1, 0.9, 1.0)),
        most=st.one_of(st.integers(0, 20), st.integers(0, 3000)),
        mask_of=st.sampled_from(("none", "rows", "pairs")),
        kind=st.sampled_from(KINDS),
    )
    def search(self, count: int, share: float, most: int, mask_of: str, kind: str) -> None:
        queries = features(kind, count, self.channels, self.generator).to(self.dtype)
        if len(self.rows):
            at = torch.randint(len(self.rows), (count // 2,), generator=self.generator)
            queries[: count // 2] = self.rows[at]
        shape = {"rows": (len(self.rows),), "pairs": (count, len(self.rows))}.get(mask_of)
        mask = None if shape is None else torch.rand(shape, generator=self.generator) < share
        k = min(most, len(self.rows))
        found = self.bank.topk(queries, k, mask=mask)
        ids = torch.tensor(self.ids, dtype=torch.int64)
        rebuilt = PrototypeBank(self.rows, ids=ids, screen=self.screen, **self.options)
        for expected in (
            topk(queries, self.rows, k, mask=mask, **self.options),
            rebuilt.topk(queries, k, mask=mask),
        ):
            assert torch.equal(found.indices, expected.indices)
            assert torch.equal(found.scores.view(torch.int32), expected.scores.view(torch.int32))

    @rule()
    def save_and_load(self) -> None:
        """To the same file each time, which the bank may be mapped from."""
        path = Path(self.folder.name) / "bank.safetensors"
        self.bank.save(path)
        before = self.bank
        self.bank = PrototypeBank.load(path)
        assert self.bank.screen == before.screen
        assert (self.bank.dtype, self.bank.metric) == (before.dtype, before.metric)

    @invariant()
    def same_ids(self) -> None:
        if hasattr(self, "bank"):
            assert self.bank.ids.tolist() == self.ids
            assert len(self.bank) == len(self.ids)

    def _fresh(self, data: st.DataObject, size: int) -> Tensor:
        """New rows, or old ones again."""
        if len(self.rows) and data.draw(st.booleans()):
            at = torch.randint(len(self.rows), (size,), generator=self.generator)
            return self.rows[at]
        kind = data.draw(st.sampled_from(KINDS))
        return features(kind, size, self.channels, self.generator).to(self.dtype)

    def _some_ids(self, data: st.DataObject, size: int) -> Tensor | None:
        if data.draw(st.booleans()):
            return None
        pool = torch.randperm(4 * (size + len(self.ids)), generator=self.generator)
        return pool[~torch.isin(pool, torch.tensor(self.ids, dtype=torch.int64))][:size]

    def _append(self, rows: Tensor, ids: Tensor | None) -> None:
        first = self.highest + 1
        made = range(first, first + len(rows)) if ids is None else ids.tolist()
        self.rows, self.ids = torch.cat([self.rows, rows]), [*self.ids, *made]
        self.highest = max([self.highest, *made])


TestBankMachine = BankMachine.TestCase
TestBankMachine.settings = settings(stateful_step_count=25)
TestBankMachine.pytestmark = [pytest.mark.hypothesis]
