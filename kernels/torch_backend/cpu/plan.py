"""Whether a search goes in one pass, and how it is shared: a pure function of its shape."""

from dataclasses import dataclass

from ...proofs import fp32

WHOLE_PRODUCTS = 1 << 21
"""Up to so many multiplications all scores are taken in fp64: a shortlist takes more calls, which
cost more than they save."""

_WHOLE_KEPT, _WHOLE_PAIRS = 16, 1 << 17
"""Times as many, and for so many pairs, where a bank keeps its rows in fp64 (64 x 1,000 x 512: 1.08
ms instead of 1.26; raw prototypes, which are widened first: 1.65 instead of 1.55)."""

SHARED_WORK = 1 << 27
"""From so many multiplications and comparisons on, threads may take blocks of their own."""

_COMPARING = 64
"""What selecting from a score takes, in multiplications."""

SPAN_ROWS = 1 << 14
_SPAN_PER_SIZE = 48
"""Prototypes of a pass, where there are as many, and for each that is listed: so many that maxima
of groups pay."""

BLOCK_SCORES = 1 << 22
"""Scores of a pass, 16 MiB in fp32: memory that is touched once, and used for every pass."""

LARGEST_GROUP = 16
"""Prototypes that share a maximum, at most: so many more may be the scores of a query."""

_SPARE = 2
"""Prototypes looked at beyond k, and a sixteenth of it, twice as many where rows lie close: so few
are within a slack of the k-th."""
_CLOSE_ROWS = 1 << 15
_IN_RESERVE = 2
"""So many more are listed, for those queries that turn out to need them: 2 in 128 of absolute
values of Gaussian vectors (32 x 1,259 x 1,280, k = 5, four draws; Sapphire Rapids, two threads: the
search that had both took 3.7 ms with the general body, 1.2 with these)."""
_SPARE_OF_ROUNDED = 16
"""So many more where vectors are rounded to bf16, and for so many bits of M / k as many as k."""
_IN_HALVES = 2
"""Times as many, and as many prototypes of a pass, where products are in bf16, which are rounded,
and take less time than selecting does."""

_TASK_QUERIES = 4096
"""Queries of a task, at most: so few that workers have more than one each where there are more."""

LEAST_QUERIES, _MOST_QUERIES = 128, 512
"""Queries of a pass, where there are as many. With fewer, products take longer: 64 rows at a time
get 48 billion multiplications a second, 128 rows 57, 256 rows 66, 1,024 rows 75 (512 channels, one
thread of a Sapphire Rapids)."""

_WIDE_ELEMENTS = 1 << 22
"""Rows of so many coordinates are made fp64 as a whole, 32 MiB, where most are looked at: touching
more memory for the first time takes longer than gathering does."""

_TILE_ELEMENTS = 1 << 21
"""Coordinates of rows that are widened at a time, otherwise: each tile is a parallel pass."""

WORKER_BYTES = 1 << 24
"""A worker has at least so much of the workspace."""


CODES_ELEMENTS = 1 << 25
"""From so many coordinates on, a bank's codes are searched faster than its vectors by one query, by
more queries from half as many on (Sapphire Rapids, two threads: 2.0 ms in one pass against 3.4 by
codes at 1 x 32,768 x 512; 4.8 against 4.7 at 1 x 65,536 x 512; 6.2 against 4.7 at 16 x 32,768).
Where rows are cast to fp32 first, from half of that on (fp16: 6.9 against 4.4 at 1 x 32,768)."""


_MANY_PACKED = 32
"""From k = 32 on, packs of fbgemm's let pass more than their products save, where queries are many
(libraries held to AVX2, 1,024 x 131,072 x 512, k = 100: 1,401 ms, in one pass 1,098 with norms)."""


_MANY_ROUNDED = 1 << 15
"""From so many matches on, rounding to bf16 beats codes, where it pays (131,072 x 512, Sapphire
Rapids, by codes and rounded: 1,024 queries, k = 100, 590 and 450 ms; k = 32, 350 and 314; k = 10,
243 and 268; 256 queries, k = 100, 128 and 130; k = 32, 81 and 95)."""


def beats_codes(
    queries: int,
    rows: int,
    channels: int,
    k: int,
    are_cast: bool,
    are_packed: bool,
    are_rounded: bool,
) -> bool:
    """Whether a bank with codes is searched in one pass nevertheless. ``are_cast``: its rows;
    ``are_packed``: its codes; ``are_rounded``: its rows in one pass."""
    if are_packed and k >= _MANY_PACKED and queries >= LEAST_QUERIES:
        return True
    if are_rounded and k * queries >= _MANY_ROUNDED:
        return True
    return min(queries, 2) * rows * channels < CODES_ELEMENTS >> are_cast


_LEAST_ROUNDED = 128, 256
"""Queries and channels from which on rounding to bf16 pays (65,536 x 512, in fp32 and rounded: 64
queries, 29 and 31 ms; 128, 46 and 38; 512, 157 and 103; of 128 channels 256 queries, 29 and 26)."""


def rounding_pays(queries: int, channels: int) -> bool:
    """Whether vectors are rounded to bf16 where products of it are fast: they take a tenth of the
    time of fp32's (AMX)."""
    return queries >= _LEAST_ROUNDED[0] and channels >= _LEAST_ROUNDED[1]


@dataclass(frozen=True)
class OnePass:
    """``whole``: all scores in fp64. ``size`` prototypes of each query are listed, the ``first``
    are looked at in fp64, the others where need be.

    ``in_halves``: by products of bf16, to which vectors may be rounded, ``span_rows`` at a time.
    ``widens``: rows are made fp64 first. ``workers`` do one task each at a time: ``query_rows``
    queries against one of ``row_tasks`` parts of the prototypes, ``block_rows`` queries and one of
    ``spans`` after the other.
    """

    whole: bool
    first: int
    size: int
    in_halves: bool
    widens: bool
    workers: int
    query_rows: int
    row_tasks: int
    block_rows: int
    spans: int
    span_rows: int
    scores: int
    """Of a block and span, at most."""
    tile_rows: int
    """Made fp64 at a time, where most are looked at and ``widens`` is not."""

    @property
    def is_ordered(self) -> bool:
        """Whether what looks better is listed before, so that some of it can be looked at first."""
        return self.first < self.size


def work_of(queries: int, rows: int, channels: int) -> int:
    """Of a search, in multiplications."""
    return queries * rows * (channels + _COMPARING)


def choose_one_pass(
    queries: int,
    rows: int,
    channels: int,
    k: int,
    workspace: int,
    workers: int,
    are_halves: bool = False,
    are_rounded: bool = False,
    are_kept: bool = False,
) -> OnePass | None:
    """The plan for Q queries, M rows, C channels within ``workspace`` bytes; None where none fits.

    A quarter of that is for rows in fp64, 8 C bytes each, where most are looked at, or tiles of
    them; half where all scores are taken in fp64, which holds 32 bytes a pair, and 48 C a query. An
    eighth is for the blocks of ``workers``, 5 bytes a pair, 7 of bf16; three eighths for their
    tasks, 48 C + 200 size bytes a query; a quarter for what repairs them, and before that for a
    span that is rounded, 2 C bytes a row. ``are_halves``: vectors are in bf16; ``are_rounded``:
    they are to be rounded to it; ``are_kept``: in fp64, by a bank.
    """
    products, half, eighth = queries * rows * channels, workspace // 2, workspace // 8
    in_halves = are_halves or are_rounded
    times = _IN_HALVES if in_halves else 1
    first = min(k + times * _spare(rows, k), rows)
    most = WHOLE_PRODUCTS
    if are_kept and queries * rows <= _WHOLE_PAIRS:
        most *= _WHOLE_KEPT
    fits = 8 * rows * channels <= half and queries * (32 * rows + 48 * channels) <= half
    if products <= most and fits:
        return _whole(queries, first)
    if are_rounded:
        first = min(first + _spare_of_rounded(rows, k), rows)
    size = first if in_halves else min(first + _IN_RESERVE, rows)
    if 4 * k > rows or channels > fp32.MAX_CHANNELS:
        return None
    workers = max(1, min(workers, workspace // WORKER_BYTES))
    least = max(times * SPAN_ROWS, _SPAN_PER_SIZE * size, BLOCK_SCORES // queries)
    by_queries = (
        queries >= workers * LEAST_QUERIES
        or rows < workers * 4 * size
        or (rows < 2 * least and queries >= workers)
    )
    tasks = 1 if by_queries else workers
    spans = max(1, rows // (tasks * least))
    if are_rounded:
        spans = max(spans, -(-rows // tasks) * channels * workers // eighth + 1)
    span = -(-rows // (tasks * spans))
    if are_rounded and span < 4 * size:
        return choose_one_pass(queries, rows, channels, k, workspace, workers, are_kept=are_kept)
    task = min(-(-queries // workers) if by_queries else queries, _TASK_QUERIES)
    task = min(task, 3 * eighth // workers // (48 * channels + 200 * size))
    block = min(max(BLOCK_SCORES // span, LEAST_QUERIES), _MOST_QUERIES)
    block = min(block, task, eighth // workers // ((7 if in_halves else 5) * span))
    if not block:
        return None
    widens = 2 * queries * size >= rows and rows * channels <= _WIDE_ELEMENTS
    # A tile of several chunks is put together, in fp64 if one is, before it is widened.
    tile_elements = min(_TILE_ELEMENTS, eighth // 8 // workers)
    return OnePass(
        whole=False,
        first=first,
        size=size,
        in_halves=in_halves,
        widens=widens and 8 * rows * channels <= 2 * eighth,
        workers=workers,
        query_rows=task,
        row_tasks=tasks,
        block_rows=block,
        spans=spans,
        span_rows=span,
        scores=block * (span + LARGEST_GROUP),
        tile_rows=max(1, tile_elements // channels),
    )


def _spare(rows: int, k: int) -> int:
    return (_SPARE << (rows >= _CLOSE_ROWS)) + k // 16


def _spare_of_rounded(rows: int, k: int) -> int:
    """Where vectors are rounded to bf16, scores lie within 0.006 of what they look like: as many
    more are that close to the k-th, the farther out that is (Gaussian, 512 channels)."""
    return _SPARE_OF_ROUNDED + k * (rows // k).bit_length() // _SPARE_OF_ROUNDED


def _whole(queries: int, size: int) -> OnePass:
    return OnePass(
        whole=True,
        first=size,
        size=size,
        in_halves=False,
        widens=True,
        workers=1,
        query_rows=queries,
        row_tasks=1,
        block_rows=queries,
        spans=1,
        span_rows=0,
        scores=0,
        tile_rows=0,
    )
