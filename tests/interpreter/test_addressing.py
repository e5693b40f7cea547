"""Elements beyond the 2^31st are found: offsets are 64 bits wide wherever rows or strides go in.

Tensors of many GB are asked for, and pages of them only touched where rows lie: strides are huge,
rows few. Where an offset were computed in 32 bits, the interpreter, which does such arithmetic in
numpy, would wrap as a device does, and read far outside of the tensor.
"""

from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import torch
from by_triton import search_codes, search_vectors, search_whole, search_with_flags, vectors_plan
from coded import close, coded
from problems import METRICS, Problem, assert_exact, vectors
from torch import Tensor

from flashmatch.kernels.triton_backend.bank_search import LAYOUT
from flashmatch.kernels.triton_backend.device.flags import Flag

BEYOND = 2**31
ROWS, APART = 1100, 2**21  # rows, and elements from one to the next
MOST_TOUCHED = 500 * 2**20


@pytest.fixture(autouse=True)
def _little_memory_is_touched() -> Iterator[None]:
    process = psutil.Process()
    before = process.memory_info().rss
    yield
    assert process.memory_info().rss - before < MOST_TOUCHED


def sparse(rows: int, width: int, strides: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A view of memory of which nothing is touched yet."""
    last = (rows - 1) * strides[0] + (width - 1) * strides[1]
    view = torch.empty(last + 1, dtype=dtype).as_strided((rows, width), strides)
    assert last > BEYOND, "32 bits would do"
    return view


def drawn(rows: int, channels: int, seed: int = 0) -> Tensor:
    return vectors("gaussian", rows, channels, torch.Generator().manual_seed(seed)).float()


def far(rows: Tensor, strides: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return sparse(*rows.shape, strides, dtype).copy_(rows)


def near(prototypes: Tensor, count: int) -> Tensor:
    """Queries whose best matches are the last prototypes, beyond 2^31, and the first."""
    chosen = torch.tensor([-1, -30, 0, -64, -2])[torch.arange(count) % 5]
    return prototypes[chosen].float() + 0.05 * drawn(count, prototypes.shape[1], 1)


def searched_whole(problem: Problem) -> tuple[Tensor, Tensor]:
    best = search_whole(problem)
    return best.scores, best.indices


def searched_by_codes(problem: Problem) -> tuple[Tensor, Tensor]:
    codes = coded([p.contiguous() for p in problem.prototypes], problem.metric, LAYOUT)
    return search_codes(problem, codes)[:2]


SEARCHES = [search_vectors, searched_by_codes, searched_whole]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_beyond_read_in_tf32(dtype: torch.dtype, metric: str) -> None:
    p = far(drawn(ROWS, 64), (APART, 1), dtype)
    problem = Problem(near(p, 3), [p], 2, metric, None, "raise", None)
    assert vectors_plan(problem).tf32
    scores, indices = search_vectors(problem)
    assert_exact((scores, indices), problem)
    assert (indices * APART > BEYOND).any()


@pytest.mark.parametrize(("queries", "metric"), [(2, "cosine"), (2, "l2"), (17, "dot")])
def test_rows_beyond_coded_in_passing(queries: int, metric: str) -> None:
    p = far(drawn(ROWS, 20), (APART, 1), torch.float16)
    problem = Problem(near(p, queries), [p], 2, metric, None, "raise", None)
    assert not vectors_plan(problem).tf32
    scores, indices = search_vectors(problem)
    assert_exact((scores, indices), problem)
    assert (indices * APART > BEYOND).any()


@pytest.mark.parametrize(("queries", "metric"), [(2, "cosine"), (2, "l2"), (17, "dot")])
def test_codes_whose_originals_lie_beyond(queries: int, metric: str) -> None:
    p = far(drawn(ROWS, 20), (APART, 1), torch.float16)
    problem = Problem(near(p, queries), [p], 2, metric, None, "raise", None)
    scores, indices = searched_by_codes(problem)
    assert_exact((scores, indices), problem)
    assert (indices * APART > BEYOND).any()


@pytest.mark.parametrize("search", SEARCHES)
def test_channels_beyond(search) -> None:
    """Rows side by side, channels far apart: the offset of a channel is what overflows."""
    p = far(drawn(150, 35), (1, 2**26), torch.float16)
    problem = Problem(near(p, 2), [p], 3, "l2", None, "raise", None)
    assert_exact(search(problem), problem)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("strides", [(2**30 + 64, 1), (1, 2**26)])
@pytest.mark.parametrize("channels", [64, 35])
def test_queries_beyond(channels: int, strides: tuple[int, int], search) -> None:
    p = drawn(150, channels)
    q = far(near(p, 4), strides, torch.float16)
    problem = Problem(q, [p], 3, "dot", None, "raise", None)
    assert_exact(search(problem), problem)


def masked(queries: int, rows: int, strides: tuple[int, int]) -> Tensor:
    allowed = torch.rand(queries, rows, generator=torch.Generator().manual_seed(5)) < 0.4
    return sparse(queries, rows, strides, torch.bool).copy_(allowed)


WITHIN, OVER = 2**29 + 2**28, 2**31 + 8  # strides that 32 bits hold, and that they do not


@pytest.mark.parametrize(
    ("search", "apart", "queries", "channels"),
    [
        (search_vectors, WITHIN, 5, 64),
        (search_vectors, OVER, 5, 64),
        (search_vectors, WITHIN, 17, 20),
        (search_vectors, OVER, 5, 20),
        (searched_by_codes, WITHIN, 17, 20),
        (searched_by_codes, OVER, 5, 20),
        (searched_whole, WITHIN, 5, 20),
        (searched_whole, OVER, 5, 20),
    ],
)
def test_masks_of_pairs_beyond(search, apart: int, queries: int, channels: int) -> None:
    p = drawn(150, channels)
    mask = masked(queries, 150, (apart, 1))
    problem = Problem(near(p, queries), [p], 3, "dot", mask, "raise", None)
    assert_exact(search(problem), problem)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("channels", [64, 20])
@pytest.mark.parametrize("ndim", [1, 2])
def test_masks_whose_columns_lie_beyond(ndim: int, channels: int, search) -> None:
    p, q = drawn(150, channels), 3
    mask = masked(q, 150, (1, 2**24))
    mask = mask[1] if ndim == 1 else mask
    problem = Problem(near(p, q), [p], 3, "l2", mask, "raise", None)
    assert_exact(search(problem), problem)


@pytest.mark.parametrize("metric", METRICS)
def test_whole_searches_of_rows_beyond(metric: str) -> None:
    p = far(drawn(ROWS, 20), (APART, 1), torch.float16)
    problem = Problem(near(p, 2), [p], 2, metric, None, "raise", None)
    scores, indices = searched_whole(problem)
    assert_exact((scores, indices), problem)
    assert (indices * APART > BEYOND).any()


@pytest.mark.parametrize("channels", [3, 64])
def test_repair_beyond(channels: int, planned) -> None:
    """Near-duplicates everywhere, which no bound separates, some of them closed."""
    generator = torch.Generator().manual_seed(2)
    p = vectors("integers", ROWS, 3, generator).float()
    p = far(torch.nn.functional.pad(p, (0, channels - 3)), (APART, 1), torch.float16)
    q = p[[-1, -5]].float()
    problem = Problem(q, [p], 6, "dot", None, "raise", None)
    with planned(strips=1, capacity=8, growth=2.0):
        best = search_with_flags(problem)
        assert_exact((best.scores, best.indices), problem)
        assert best.flags[Flag.REPAIRED] > 0
        if channels > 3:
            return
        codes = coded([p.contiguous()], "dot", LAYOUT)
        present = torch.arange(ROWS) % 7 != 0
        close(codes, present)
        found = search_codes(problem, codes)
        assert_exact(found[:2], problem.replace(mask=present))
        assert found.repaired > 0


def test_offsets_of_32_bits_would_miss() -> None:
    """What these tests are for: the last row's offset, in 32 bits, lies before the first's."""
    with np.errstate(over="ignore"):
        wrapped = np.int32(ROWS - 1) * np.int32(APART)
    assert (ROWS - 1) * APART > BEYOND > 0 > wrapped


def test_touching_memory_is_noticed() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    touched = torch.ones(MOST_TOUCHED // 4 + 2**20)
    assert process.memory_info().rss - before > MOST_TOUCHED
    del touched
