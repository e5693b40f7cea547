"""Banks whose codes fbgemm multiplies, as on a CPU without VNNI: the oracle's answers, whatever
becomes of the bank, and the same file as on other machines."""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from problems import METRICS, Problem, assert_exact, vectors
from screens import multiply_by_fbgemm, needs_fbgemm, screen_in_pieces

from flashmatch import PrototypeBank, topk
from flashmatch.kernels.codes import held
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.products import choice, integers, packed
from flashmatch.kernels.torch_backend import int8_scan, int8_search

pytestmark = [needs_fbgemm, pytest.mark.usefixtures("poisoned_empty")]


@pytest.fixture(scope="module", autouse=True)
def _by_fbgemm() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        multiply_by_fbgemm(patch)
        screen_in_pieces(patch)
        yield


def drawn_rows(count: int, channels: int = 40, kind: str = "gaussian", seed: int = 0):
    return vectors(kind, count, channels, torch.Generator().manual_seed(seed)).float()


def bank_of(it: Problem) -> PrototypeBank:
    return PrototypeBank(it.prototypes, metric=it.metric, screen="int8", nonfinite=it.nonfinite)


@given(problems(largest=2600))
def test_equals_the_oracle(problem: Problem) -> None:
    bank = bank_of(problem)
    assert_exact(bank.topk(problem.queries, problem.k, mask=problem.mask), problem)
    assert bank.stats.product == ("fbgemm" if bank.screen == "int8" else "")


@given(problems(largest=1500), st.data())
def test_banks_that_lost_and_gained_rows(problem: Problem, data: st.DataObject) -> None:
    """Masks are by position; of the rows that are left, in order."""
    bank, last = bank_of(problem), problem.prototypes[-1]
    share = data.draw(st.sampled_from((0.001, 0.2, 0.7)))
    gone = torch.rand(problem.rows, generator=torch.Generator().manual_seed(1)) < share
    bank.remove(gone.nonzero()[:, 0])
    if data.draw(st.booleans()):
        bank.add(last, ids=range(problem.rows, problem.rows + len(last)))
        more = [last]
    else:
        more = []
    wide = torch.float64 if bank.dtype == torch.float64 else torch.float32
    left = torch.cat([p.to(wide) for p in problem.prototypes])[~gone]
    rows = len(left) + sum(map(len, more))
    mask = problem.mask
    if mask is not None:
        mask = (
            torch.rand((*mask.shape[:-1], rows), generator=torch.Generator().manual_seed(2)) < 0.6
        )
    problem = problem.replace(prototypes=[left, *more], mask=mask, k=min(problem.k, rows))
    assert_exact(bank.topk(problem.queries, problem.k, mask=mask), problem)
    bank.check()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("channels", [1, 300, 2100])
def test_products_beyond_what_fp32_holds(metric: str, channels: int) -> None:
    """2,100 times 63 times 127 is more than 2^24: a product of equal vectors is rounded."""
    p = drawn_rows(2500, channels, "duplicates").sign()
    q = torch.cat([p[:9], -p[:3], drawn_rows(5, channels, seed=1)])
    it = Problem(q, [p], 10, metric)
    assert_exact(bank_of(it).topk(q, 10), it)


COPIES = [copy.copy, copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))]


@pytest.mark.parametrize("copied", COPIES)
def test_copies_go_through_codes(copied: Callable) -> None:
    p, q = drawn_rows(5000), drawn_rows(7, seed=1)
    bank = PrototypeBank(p, screen="int8")
    other = copied(bank)
    assert torch.equal(other._state.coder.codes.codes, bank._state.coder.codes.codes)
    for each in (other, bank):
        each.add(p[:2000])
        it = Problem(q, [p, p[:2000]], 10, "cosine")
        assert_exact(each.topk(q, 10), it)
        each.check()


def supposed(patch: pytest.MonkeyPatch, product: str) -> None:
    patch.setattr(choice, "product_of_codes", lambda device_type: product)


@pytest.mark.parametrize("there", ["int_mm", "fbgemm", ""])
@pytest.mark.parametrize("here", ["int_mm", "fbgemm"])
@pytest.mark.parametrize("by_file", [True, False])
def test_codes_are_the_same_everywhere(
    here: str,
    there: str,
    by_file: bool,
    tmp_path: Path,
    coded_rows: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bank is saved, or pickled, where one product serves, and opened where another does."""
    if "int_mm" in (here, there) and not integers.is_exact("cpu"):
        pytest.skip("products by torch are not exact here")
    p, q = drawn_rows(5000), drawn_rows(7, seed=1)
    supposed(monkeypatch, here)
    bank = PrototypeBank(p, screen="int8")
    assert bank.stats.product == here
    bank.save(tmp_path / "bank")
    pickled, codes = pickle.dumps(bank), bank._state.coder.codes.codes
    del coded_rows[:]
    supposed(monkeypatch, there)
    opened = PrototypeBank.load(tmp_path / "bank") if by_file else pickle.loads(pickled)
    assert coded_rows == []
    assert opened.stats.product == there
    if there:
        assert torch.equal(opened._state.coder.codes.codes, codes)
        assert isinstance(opened._state.coder.codes.held, held.PackedCodes) == (there == "fbgemm")
    assert_exact(opened.topk(q, 10), Problem(q, [p], 10, "cosine"))
    assert opened.stats.rows_rescored == 0 or there


def test_additions_pack_no_more_than_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, packs = PrototypeBank(drawn_rows(9000), screen="int8"), []
    pack = packed.pack
    monkeypatch.setattr(packed, "pack", lambda codes: packs.append(len(codes)) or pack(codes))
    bank.add(drawn_rows(10))
    assert packs == [1024]  # the page behind the whole ones
    bank.add(drawn_rows(2000))
    assert sum(packs[1:]) <= 2 * 1024 + 2048


def test_queries_have_seven_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else pairs of products saturate where units are of AVX2."""
    largest, multiply = [], packed.multiply_packed

    def watched(queries: torch.Tensor, pack: object) -> torch.Tensor:
        largest.append(float(queries.abs().max()))
        return multiply(queries, pack)

    monkeypatch.setattr(packed, "multiply_packed", watched)
    PrototypeBank(drawn_rows(3000), screen="int8").topk(drawn_rows(5), 3)
    assert set(largest) == {63.0}


def test_what_is_certified_is_as_by_other_products() -> None:
    bank = PrototypeBank(drawn_rows(6000, 64), screen="int8")
    bank.topk(drawn_rows(20, 64, seed=1), 10)
    assert bank.stats.repaired == 0
    assert 10 * 20 <= bank.stats.rows_rescored < 0.05 * 20 * 6000


def test_raw_vectors_are_not_coded_in_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing costs more than one search saves (decision 16)."""
    monkeypatch.setattr(integers, "is_fast", lambda device: False)

    def refuse(*_: object) -> None:
        raise AssertionError("packed for one search")

    monkeypatch.setattr(int8_search, "search_while_coding", refuse)
    topk(drawn_rows(600, 128), drawn_rows(17_000, 128), 3)


def test_codes_are_written_over() -> None:
    """As by a search that codes in passing, chunk by chunk."""
    p = drawn_rows(5000)
    frame = PrototypeBank(p[:1000], screen="int8")._state.coder.codes.frame
    codes = Codes(frame, int8_scan.LAYOUT, 2048, 40)
    for rows in (p[:2048], p[2048:3000], p[3000:5000]):
        norms = torch.linalg.vector_norm(rows, dim=1)
        codes.write(0, rows, norms)
        alone = Codes(frame, int8_scan.LAYOUT, len(rows), 40)
        alone.write(0, rows, norms)
        assert torch.equal(codes.codes, alone.codes)
