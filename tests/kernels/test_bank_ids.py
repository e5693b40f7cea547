"""Ids, adding and removing: what they cost, what they refuse; a refusal changes nothing."""

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
from features import features
from problems import METRICS
from screens import SCREENS, needs_int8
from torch import Tensor

from flashmatch import kernels, topk, verify
from flashmatch.kernels import PrototypeBank
from flashmatch.kernels.torch_backend import int8_scan

pytestmark = pytest.mark.usefixtures("poisoned_empty", "screened_in_pieces")


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest) -> str:
    return request.param


def rows_of(count: int, seed: int = 0, channels: int = 8, kind: str = "gaussian") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return features(kind, count, channels, generator).float()


def state(bank: PrototypeBank) -> tuple[list, ...]:
    """All that a caller can see."""
    queries = rows_of(5, seed=99, channels=bank.dim)
    scores, indices = bank.topk(queries, len(bank))
    return bank.ids.tolist(), scores.tolist(), indices.tolist(), [len(bank), bank.nbytes]


def assert_same(bank: PrototypeBank, rows: Tensor, ids: list[int]) -> None:
    """The bank holds just these rows under these ids."""
    assert bank.ids.tolist() == ids
    assert bank.ids.dtype == torch.int64
    queries = rows_of(5, seed=98, channels=bank.dim)
    for k in sorted({0, min(1, len(rows)), len(rows) // 3, len(rows)}):
        expected = topk(queries, rows, k, metric=bank.metric)
        assert all(map(torch.equal, bank.topk(queries, k), expected))


def test_default_ids_are_the_positions(screen: str) -> None:
    rows = rows_of(50)
    assert_same(PrototypeBank(rows, screen=screen), rows, list(range(50)))


@pytest.mark.parametrize(
    "make",
    [
        *(list, tuple, deque, np.array, torch.tensor),
        lambda ids: torch.tensor(ids, dtype=torch.int32),
        lambda ids: torch.tensor(ids).view(torch.uint64),
        lambda ids: np.array(ids, dtype=">u8"),
        lambda ids: [np.uint64(i) for i in ids],
        lambda ids: [torch.tensor(i) for i in ids],
    ],
    ids=[
        *("list", "tuple", "deque", "array", "tensor"),
        *("int32", "uint64", "foreign", "scalars", "tensors"),
    ],
)
def test_ids_may_be_given_in_any_form_and_order(make: Callable, screen: str) -> None:
    rows, ids = rows_of(5), [7, 3, 100, 0, 2**31 - 1]
    bank = PrototypeBank(rows, ids=make(ids), screen=screen)
    assert_same(bank, rows, ids)
    bank.remove(make([100, 7]))
    assert_same(bank, rows[[1, 3, 4]], [3, 0, 2**31 - 1])


def test_add_returns_the_ids(screen: str) -> None:
    rows = rows_of(10)
    bank = PrototypeBank(rows[:4], screen=screen)
    assert bank.add(rows[4:6]).tolist() == [4, 5]
    assert bank.add(rows[6:8], ids=[50, 20]).tolist() == [50, 20]
    assert bank.add([rows[8:9], rows[9:]]).tolist() == [51, 52]
    assert bank.add(rows[:0]).tolist() == []
    assert_same(bank, rows, [0, 1, 2, 3, 4, 5, 50, 20, 51, 52])


@pytest.mark.parametrize("metric", METRICS)
def test_made_ids_are_never_used_again(metric: str, screen: str) -> None:
    rows = rows_of(10)
    bank = PrototypeBank(rows, metric=metric, screen=screen)
    bank.remove(range(10))
    assert len(bank) == 0
    assert_same(bank, rows[:0], [])
    assert bank.add(rows[3:5]).tolist() == [10, 11]
    assert_same(bank, rows[3:5], [10, 11])


def test_a_removed_id_may_be_given_again(screen: str) -> None:
    rows = rows_of(3000)
    bank = PrototypeBank(rows, screen=screen)
    for row in (2999, 5, 5):
        bank.remove(row)
        assert row not in bank.ids.tolist()
        bank.add(rows[row : row + 1], ids=row)
    kept = [i for i in range(3000) if i not in (5, 2999)]
    assert_same(bank, rows[[*kept, 2999, 5]], [*kept, 2999, 5])
    bank.remove([5, 2999])
    assert_same(bank, rows[kept], kept)


@pytest.mark.parametrize("metric", METRICS)
def test_positions_move_up_when_rows_go(metric: str, screen: str) -> None:
    rows = rows_of(4000, kind="duplicates")
    bank = PrototypeBank(rows, metric=metric, screen=screen)
    kept = torch.arange(4000)
    for gone in (torch.tensor([0]), torch.arange(1000, 1100), torch.tensor([3999, 1, 2047])):
        bank.remove(gone)
        kept = kept[~torch.isin(kept, gone)]
        assert_same(bank, rows[kept], kept.tolist())


@pytest.mark.parametrize("screen_after", SCREENS)
def test_most_rows_gone_are_forgotten(screen_after: str) -> None:
    rows, ids = rows_of(5000), torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    bank = PrototypeBank([rows[:3000], rows[3000:]], ids=ids, screen=screen_after)
    full = bank.nbytes
    gone = torch.arange(200, 4200)
    bank.remove(ids[gone])
    kept = torch.cat([torch.arange(200), torch.arange(4200, 5000)])
    assert_same(bank, rows[kept], ids[kept].tolist())
    assert bank.nbytes < 0.4 * full
    assert sum(map(len, bank._state.collection.rows.chunks)) == 1000
    bank.add(rows[gone], ids=ids[gone])
    assert_same(bank, rows[torch.cat([kept, gone])], ids[torch.cat([kept, gone])].tolist())


def test_excluded_rows_stay_excluded_when_others_go(screen: str) -> None:
    rows = rows_of(3000)
    rows[[3, 2500]] = torch.nan
    bank = PrototypeBank(rows, screen=screen, nonfinite="exclude")
    queries = rows_of(4, seed=1)
    gone = [0, 10]
    for more in ([20], range(30, 2400)):
        gone += more
        bank.remove([i for i in gone if i in bank.ids])
        kept = [i for i in range(3000) if i not in gone]
        expected = topk(queries, rows[kept], len(kept), nonfinite="exclude")
        assert all(map(torch.equal, bank.topk(queries, len(kept)), expected))
    bank.add(rows[:4])
    expected = topk(queries, torch.cat([rows[kept], rows[:4]]), 9, nonfinite="exclude")
    assert all(map(torch.equal, bank.topk(queries, 9), expected))


KIND = "ids must be (integers, as all of this bank are|all integers or all strings)"
WRONG_IDS = [
    ([1, 1, 2], ValueError, r"ids must be unique; got 1 more than once"),
    ([100, 4, 3], ValueError, r"ids must be new to the bank; got 4, 3 again"),
    ([100, 101], ValueError, r"ids must have one id for each of 3 rows; got 2"),
    ([-1, 100, 101], ValueError, r"ids must not be negative; got -1"),
    ([100.0, 101.0, 102.0], TypeError, KIND + r"; got 100.0"),
    (torch.tensor([100.0, 101, 102]), TypeError, KIND + r"; got torch.float32"),
    ([True, False, True], TypeError, KIND + r"; got True"),
    (torch.tensor([True, False, True]), TypeError, KIND + r"; got torch.bool"),
    (np.array([True, False, True]), TypeError, KIND + r"; got np.True_"),
    (np.array([100, 1.5, 102]), TypeError, KIND + r"; got np.float64\(100.0\)"),
    (torch.arange(3).to_sparse(), TypeError, r"ids must be a dense tensor .* torch.sparse_coo"),
    (["cat", "dog", "cow"], TypeError, KIND + r"; got 'cat'"),
    (np.array(["cat", "dog", "cow"]), TypeError, KIND + r"; got 'cat'"),
    ("cat", TypeError, KIND + r"; got 'cat'"),
    ({100, 101, 102}, TypeError, KIND + r"; got {100, 101, 102}"),
    (iter([1, 2, 3]), TypeError, KIND + r"; got <list_iterato"),
    ([100, None, 102], TypeError, KIND + r"; got None"),
    ([100, 2**64, 102], ValueError, r"ids must be below 2\^63; got 18446744073709551616"),
    ([100, 2**63, -1], ValueError, r"ids must be below 2\^63; got 9223372036854775808"),
    (
        np.array([2**63 + 5, 101, 102], dtype=np.uint64),
        ValueError,
        r"ids must be below 2\^63; got 9223372036854775813",
    ),
    (
        torch.tensor([100, 101, -1]).view(torch.uint64),
        ValueError,
        r"ids must be below 2\^63; got 18446744073709551615",
    ),
    ([[100, 101, 102]], ValueError, r"ids must be 1-D; got shape \(1, 3\)"),
    ([[100], [101], [102, 103]], TypeError, KIND + r"; got \[100\]"),
]


@pytest.mark.parametrize(("ids", "error", "message"), WRONG_IDS)
def test_add_refuses_wrong_ids_and_changes_nothing(
    ids: object, error: type, message: str, screen: str
) -> None:
    bank = PrototypeBank(rows_of(40), screen=screen)
    before = state(bank)
    with pytest.raises(error, match=message):
        bank.add(rows_of(3), ids=ids)
    assert state(bank) == before
    assert bank.add(rows_of(1)).tolist() == [40]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [case for case in WRONG_IDS if "new to" not in case[2] and "'cat'" not in case[2]],
)
def test_a_new_bank_refuses_wrong_ids(ids: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        PrototypeBank(rows_of(3), ids=ids)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (torch.ones(2, 7), ValueError, "prototypes must have the bank's 8 channels"),
        ([torch.ones(2, 8), torch.ones(2, 7)], ValueError, r"prototypes\[1\] must have 8"),
        (torch.ones(2, 8).int(), TypeError, "prototypes must be float32"),
        (torch.ones(8), ValueError, "prototypes must have shape"),
        (torch.full((2, 8), torch.nan), ValueError, "prototypes must be finite .* rows 0, 1"),
        (
            [torch.ones(3, 8), torch.full((2, 8), torch.inf)],
            ValueError,
            "prototypes must be finite .* rows 3, 4",
        ),
    ],
)
def test_add_refuses_wrong_rows_and_changes_nothing(
    rows: object, error: type, message: str, screen: str
) -> None:
    bank = PrototypeBank(rows_of(1500), screen=screen)
    before = state(bank)
    with pytest.raises(error, match=message):
        bank.add(rows)
    assert state(bank) == before


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (40, ValueError, "ids must be in the bank; got 40"),
        ([3, 41, 42], ValueError, "ids must be in the bank; got 41, 42"),
        (-1, ValueError, "ids must not be negative; got -1"),
        (3.0, TypeError, "ids must be integers"),
        ("one", TypeError, "ids must be integers"),
        ([[1], [2]], ValueError, "ids must be 1-D"),
        (list(range(50, 60)), ValueError, r"got 50, 51, 52, 53, 54, \.\.\."),
    ],
)
def test_remove_refuses_wrong_ids_and_changes_nothing(
    ids: object, error: type, message: str, screen: str
) -> None:
    bank = PrototypeBank(rows_of(40), screen=screen)
    before = state(bank)
    with pytest.raises(error, match=message):
        bank.remove(ids)
    assert state(bank) == before


def test_removing_nothing_or_one_twice(screen: str) -> None:
    rows = rows_of(40)
    bank = PrototypeBank(rows, screen=screen)
    bank.remove([])
    assert_same(bank, rows, list(range(40)))
    bank.remove([7, 7])
    kept = [i for i in range(40) if i != 7]
    assert_same(bank, rows[kept], kept)


def test_many_tiny_additions_stay_few_chunks(screen: str) -> None:
    rows = rows_of(700)
    bank = PrototypeBank(rows[:0], screen=screen)
    for row in rows.split(1):
        bank.add(row)
    assert len(bank._state.collection.rows.chunks) <= 2
    assert_same(bank, rows, list(range(700)))


def test_additions_of_another_dtype(screen: str) -> None:
    first, second = rows_of(1500), rows_of(300, seed=1).half()
    bank = PrototypeBank(first.bfloat16(), screen=screen)
    bank.add(second)
    assert bank.dtype == torch.float32
    assert_same(bank, torch.cat([first.bfloat16().float(), second.float()]), list(range(1800)))


@needs_int8
def test_add_codes_one_page_and_remove_codes_nothing(coded_rows: list[int]) -> None:
    span = int8_scan.LAYOUT.span
    rows = rows_of(50_000)
    bank = PrototypeBank(rows, screen="int8")
    assert sum(coded_rows) == 50_000
    del coded_rows[:]
    bank.add(rows[:1])
    assert sum(coded_rows) <= span
    bank.add(rows[:3000])
    assert sum(coded_rows) <= span + 3000 + span
    del coded_rows[:]
    bank.remove(range(0, 25_000, 2))
    assert coded_rows == []
    bank.add(rows[:1])
    assert sum(coded_rows) <= span
    kept = [*range(1, 25_000, 2), *range(25_000, 50_000)]
    expected = torch.cat([rows[kept], rows[:1], rows[:3000], rows[:1]])
    assert torch.equal(bank.topk(rows[:3], 30).indices, topk(rows[:3], expected, 30).indices)


@needs_int8
def test_a_growing_bank_codes_each_row_a_few_times(coded_rows: list[int]) -> None:
    """Frames fitted to few rows are fitted anew, but only as the bank grows in proportion."""
    rows = rows_of(20_000)
    bank = PrototypeBank(rows[:1], screen="int8")
    for part in rows[1:].split(1024):
        bank.add(part)
    assert sum(coded_rows) < 4 * 20_000
    assert_same(bank, rows, list(range(20_000)))


def test_a_mask_for_each_query_is_brought_in_batches(
    screen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows are gone, a mask by row has to be made, which may not fit into the workspace."""
    rows = rows_of(3000)
    bank = PrototypeBank(rows, screen=screen)
    bank.remove([0, 1500])
    kept = torch.cat([torch.arange(1, 1500), torch.arange(1501, 3000)])
    queries = rows_of(23, seed=1)
    mask = torch.rand(23, 2998, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = topk(queries, rows[kept], 7, mask=mask)
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", 8 * 5 * 3000)
    assert all(map(torch.equal, bank.topk(queries, 7, mask=mask), expected))
    assert bank.stats.queries == bank.stats.certified + bank.stats.repaired == 23


def test_no_id_is_left_above_the_largest(screen: str) -> None:
    bank = PrototypeBank(rows_of(1), ids=2**63 - 1, screen=screen)
    with pytest.raises(ValueError, match="ids"):
        bank.add(rows_of(1))


@pytest.mark.parametrize("screen", SCREENS)
def test_vectors_come_back_as_they_went_in(screen: str) -> None:
    rows = torch.randn(3000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bank = PrototypeBank([rows[:1000].half(), rows[1000:2000].half()], metric="dot", screen=screen)
    bank.add(rows[2000:].half())
    bank.remove(range(500, 1500))
    left = torch.cat([rows[:500], rows[1500:]]).half()
    assert torch.equal(bank.vectors(), left)
    positions = torch.tensor([1999, 0, 0, 500])
    assert torch.equal(bank.vectors(positions), left[positions])
    assert bank.vectors(positions[:0]).shape == (0, 8)
    for bad, error in (
        ([0], TypeError), (positions.int(), TypeError), (positions[None], ValueError),
        (positions + 1, ValueError), (positions - 1, ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match="positions"):
            bank.vectors(bad)


@pytest.mark.parametrize("screen", SCREENS)
def test_banks_of_inference_mode_change_outside_it(screen: str) -> None:
    rows = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        bank = PrototypeBank(rows[:1500], screen=screen)
        bank.topk(rows[:3], 2)
    bank.add(rows[1500:])
    bank.remove([3])
    with torch.inference_mode():
        bank.remove([4])
        matches = bank.topk(rows[:3], 2)
    assert verify(rows[:3], bank.vectors(), matches)
