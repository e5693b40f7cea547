"""Thresholds guessed from a sample of the codes: they save work, and never an answer."""

import pytest
import torch
from allocations import peak_bytes
from problems import METRICS, Problem, assert_exact
from screens import needs_int8, screen_in_pieces
from torch import Tensor

from flashmatch import PrototypeBank
from flashmatch.kernels.torch_backend import int8_scan
from flashmatch.kernels.torch_backend.cpu import coded, guess

pytestmark = needs_int8
ROWS, CHANNELS, QUERIES, K = 40 * 1024 - 7, 12, 20, 40


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    screen_in_pieces(monkeypatch, rows=2048, queries=16)
    monkeypatch.setattr(guess, "_LEAST", 2)  # a pack of fbgemm's is two pages


@pytest.fixture
def sieved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs each call of the sieve was asked for."""
    counts, call = [], int8_scan._Sieve.__call__

    def counted(sieve: object, pages: object, queries: Tensor, rows: Tensor) -> object:
        counts.append(len(queries))
        return call(sieve, pages, queries, rows)

    monkeypatch.setattr(int8_scan._Sieve, "__call__", counted)
    return counts


def problem(metric: str, mask: Tensor | None = None) -> Problem:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(ROWS, CHANNELS, generator=generator)
    q = torch.randn(QUERIES, CHANNELS, generator=generator)
    return Problem(q, [p], K, metric, mask=mask)


def search(it: Problem) -> PrototypeBank:
    bank = PrototypeBank(it.prototypes, metric=it.metric, screen="int8")
    assert_exact(bank.topk(it.queries, it.k, mask=it.mask), it)
    return bank


def without_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded, "take_guess", lambda scan, runs: None)


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_pairs_are_sieved(
    metric: str, sieved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = problem(metric)
    assert search(it).stats.repaired == 0
    with_guess = sum(sieved)
    sieved.clear()
    without_guesses(monkeypatch)
    search(it)
    assert with_guess < 0.8 * sum(sieved)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("by", [3.0, 100.0])
def test_guesses_that_are_too_high_are_noticed(
    metric: str, by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every other query: those are scanned again, and the others are not."""
    taken = guess.take_guess

    def high(scan: int8_scan.Int8Scan, runs: list[guess.Run]) -> None:
        taken(scan, runs)
        assert scan.guess is not None
        scan.guess[::2] += by

    monkeypatch.setattr(coded, "take_guess", high)
    repaired = search(problem(metric)).stats.repaired
    assert repaired == QUERIES / 2 if by == 100.0 else 0 < repaired <= QUERIES / 2


def test_a_query_that_is_repaired_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = guess.take_guess

    def high(scan: int8_scan.Int8Scan, runs: list[guess.Run]) -> None:
        taken(scan, runs)
        assert scan.guess is not None
        scan.guess += 100.0
        scan.repaired |= True

    monkeypatch.setattr(coded, "take_guess", high)
    assert search(problem("dot")).stats.repaired == QUERIES


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("allowed", [0.0005, 0.5])
@pytest.mark.parametrize("by_pair", [False, True])
def test_whatever_may_match(metric: str, allowed: float, by_pair: bool) -> None:
    """Even fewer than k."""
    shape = (QUERIES, ROWS) if by_pair else (ROWS,)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < allowed
    search(problem(metric, mask))


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_not_finite_is_left_out(metric: str) -> None:
    it = problem(metric).replace(nonfinite="exclude")
    it.prototypes[0][::3] = torch.nan
    it.queries[4] = torch.inf
    bank = PrototypeBank(it.prototypes, metric=metric, screen="int8", nonfinite="exclude")
    assert_exact(bank.topk(it.queries, it.k), it)
    assert bank.stats.repaired == 0


def test_rows_that_come_in_ascending_order_do_not_crowd_the_scan(
    sieved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part holds better matches than all before it."""
    it = problem("dot")
    q = it.queries[:1].repeat(QUERIES, 1)
    p = it.prototypes[0]
    it = it.replace(queries=q, prototypes=[p[(p @ q[0]).argsort()]])
    search(it)
    with_guess = sum(sieved)
    sieved.clear()
    without_guesses(monkeypatch)
    search(it)
    assert with_guess < 0.2 * sum(sieved)


def test_a_guess_holds_few_values_however_many_rows_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen_in_pieces(monkeypatch, rows=2048, queries=256)
    generator = torch.Generator().manual_seed(0)
    q, peaks, taken = torch.randn(256, 4, generator=generator), [], guess.take_guess
    monkeypatch.setattr(coded, "take_guess", lambda *a: peaks.append(peak_bytes(lambda: taken(*a))))
    for rows in (1 << 18, 1 << 20):
        p = torch.randn(rows, 4, generator=generator)
        PrototypeBank(p, screen="int8").topk(q, 32)
    few, many = peaks
    groups_more = ((1 << 20) - (1 << 18)) // 16 // 16
    assert many - few < 0.1 * 256 * groups_more * 8  # 6 MiB, if all were held
