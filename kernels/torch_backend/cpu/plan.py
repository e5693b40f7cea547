"""Whether a search goes in one pass, and how it is shared: a pure function of its shape."""

from dataclasses import dataclass

from ...proofs import fp32

WHOLE_PRODUCTS = 1 << 21
"""Up to so many multiplications all scores are taken in fp64: a shortlist takes more calls, which
cost more than they save."""

SHARED_WORK = 1 << 26
"""From so many multiplications and comparisons on, threads take blocks of their own."""

_COMPARING = 64
"""What selecting from a score takes, in multiplications."""

SPAN_ROWS = 1 << 18
"""Prototypes of a pass, at most."""

BLOCK_SCORES = 1 << 20
"""Scores of a block, 4 MiB in fp32: in cache until they are selected from."""

_SPARE = 2
"""Prototypes looked at beyond k, and a sixteenth of it: so few lie within a slack of the k-th."""

_BLOCK_QUERIES = 64
"""Queries of a block, where there are as many: with fewer, products read more than they compute."""

_FEW = 32
"""With fewer queries for each worker, workers have prototypes of their own, not queries."""

_WORKER_BYTES = 1 << 24
"""A worker has at least so much of the workspace."""


@dataclass(frozen=True)
class OnePass:
    """``whole``: all scores in fp64. ``size`` prototypes of each query are looked at in the end.

    ``workers`` do one task each at a time: ``query_rows`` queries against one of ``row_tasks``
    parts of the prototypes, in ``spans``. ``widens``: rows are made fp64 first.
    """

    whole: bool
    size: int
    widens: bool
    workers: int
    query_rows: int
    row_tasks: int
    spans: int
    scores: int
    """Of a task and span, at most."""


def choose_one_pass(
    queries: int, rows: int, channels: int, k: int, workspace: int, threads: int
) -> OnePass | None:
    """The plan for Q queries, M rows, C channels within ``workspace`` bytes; None where none fits.

    Half of it is for rows in fp64, where most are looked at: 8 C each, and as much again meanwhile.
    The other half is for tasks, which hold, in bytes, 48 C + 96 size a query, and 16 a pair, or 32
    where all are scored in fp64.
    """
    products, half = queries * rows * channels, workspace // 2
    size = min(k + _SPARE + k // 16, rows)
    if products <= WHOLE_PRODUCTS:
        fits = 16 * rows * channels <= half and queries * (32 * rows + 48 * channels) <= half
        return OnePass(True, size, True, 1, queries, 1, 1, 0) if fits else None
    if 4 * k > rows or channels > fp32.MAX_CHANNELS:
        return None
    is_shared = products + queries * rows * _COMPARING >= SHARED_WORK
    workers = max(1, min(threads, workspace // _WORKER_BYTES)) if is_shared else 1
    by_queries = queries >= _FEW * workers
    tasks = 1 if by_queries else max(1, min(workers, rows // (4 * k)))
    spans = -(-rows // (tasks * max(SPAN_ROWS, 4 * k)))
    span = -(-rows // (tasks * spans))
    most = -(-queries // workers) if by_queries else queries
    block = min(max(BLOCK_SCORES // span, _BLOCK_QUERIES), most)
    block = min(block, half // workers // (16 * span + 48 * channels + 96 * size))
    widens = 2 * queries * size >= rows and 16 * rows * channels <= half
    if not block:
        return None
    return OnePass(False, size, widens, workers, block, tasks, spans, block * (span + 16))
