"""How a search is cut up: a pure function of its shape. Tuning lives here and nowhere else."""

from dataclasses import dataclass, replace

from ..proofs import fp32, int8

TILE_ELEMENTS = 1 << 19
"""Elements of a tile, which stays in cache between its norms and its product: 2 MiB in fp32."""

WHOLE_ELEMENTS = 1 << 16
"""Up to so many scores and prototype elements together, a search scores all pairs in fp64: a screen
takes more calls of torch, which cost more than the arithmetic that they save."""

CODES_ELEMENTS = 1 << 21
"""From so many coordinates on, a bank's codes are searched: int8 takes more calls than fp32."""

CODES_ROWS = 200
"""From so many rows for each of the k on; with fewer, too many members reach the threshold."""

CODED_SPAN = 1024
"""Rows of a page of codes."""

CODED_PAIRS = 1 << 22
"""Products of codes at a time, 16 MiB in int32: what is done once for all of them takes as long as
a million products."""


@dataclass(frozen=True)
class Plan:
    """Blocks of a search on the torch backend.

    ``tile_rows`` prototypes are multiplied at a time, ``chunk_rows`` are selected from at a time,
    and ``group`` of them share one maximum (1: every score is compared). ``screened=False``
    evaluates every score exactly, ``whole_rows`` prototypes at a time, which is cheaper where most
    are wanted or there are few.

    ``coded`` says that raw prototypes should be coded, which is done once for each
    ``coding_queries``; ``coded_rows`` codes are multiplied by ``coded_queries`` at a time.
    """

    query_rows: int
    chunk_rows: int
    whole_rows: int
    tile_rows: int
    group: int
    screened: bool
    coded: bool
    coding_queries: int
    coded_queries: int
    coded_rows: int

    def for_packs_of(self, rows: int) -> "Plan":
        """With ``coded_rows`` in whole packs of so many rows, and about as many products."""
        whole = -(-self.coded_rows // rows) * rows
        queries = self.coded_queries * self.coded_rows // whole
        return replace(self, coded_rows=whole, coded_queries=_clamp(queries, 1, 256))


def choose_plan(
    queries: int, rows: int, channels: int, k: int, workspace: int, chunk_rows: int | None
) -> Plan:
    """The plan for Q queries, M rows, C channels within ``workspace`` bytes.

    A search holds, in bytes:

    a query     48 C for the block in fp64 and its copies, 256 k for keys and candidates
    a row       8 C where its chunk is copied, 32 C where it is scored as a whole
    a pair      64 of a block and a chunk, 16 of a block and codes

    Each line gets a quarter of ``workspace``.
    """
    share = workspace // 4
    screened = (
        (queries + channels) * rows > WHOLE_ELEMENTS
        and 4 * k <= rows
        and channels <= fp32.MAX_CHANNELS
    )
    codable = screened and channels <= int8.MAX_CHANNELS
    chunk = chunk_rows or _chunk_rows(queries, k)
    chunk = _clamp(chunk, 1, min(rows, share // (8 * channels)))
    block = min(share // (48 * channels + 256 * k), share // (64 * chunk), 1024)
    pairs = min(CODED_PAIRS, share // 16)
    coded_rows = min(max(_chunk_rows(queries, k) * pairs >> 20, 32 * k), rows)
    coded_rows = -(-coded_rows // CODED_SPAN) * CODED_SPAN
    coded_queries = min(-(-pairs // coded_rows), share // (48 * channels + 256 * k), 256)
    # For raw prototypes: a page in fp32, with copies of it; the codes, and their rows if copied.
    fits = (24 * CODED_SPAN + 5 * coded_rows) * channels <= 2 * share
    coding_queries = _clamp(share // (48 * channels + 256 * k), 1, queries)
    is_worth_coding = coding_pays(coding_queries, rows, channels) and rows >= CODES_ROWS * k
    return Plan(
        query_rows=_clamp(block, 1, queries),
        chunk_rows=chunk,
        whole_rows=_clamp(share // (32 * channels), 1, chunk),
        tile_rows=_clamp(TILE_ELEMENTS // channels, 256, chunk),
        group=_group(chunk, k),
        screened=screened,
        coded=codable and fits and is_worth_coding,
        coding_queries=coding_queries,
        coded_queries=max(coded_queries, 1),
        coded_rows=coded_rows,
    )


def codes_pay(queries: int, rows: int, channels: int, k: int) -> bool:
    """Whether a bank's codes are searched, rather than its vectors."""
    few = (queries + channels) * rows <= WHOLE_ELEMENTS
    return not few and rows * channels >= CODES_ELEMENTS and rows >= max(CODES_ROWS, 4) * k


def coding_pays(queries: int, rows: int, channels: int) -> bool:
    """Whether coding raw prototypes costs less than it saves (decision 6)."""
    return queries >= 1024 and channels >= 128 and rows >= 1 << 15


def _chunk_rows(queries: int, k: int) -> int:
    """A block's scores, 1 Mi of them, stay in cache; and 32 rows or more for each of the k."""
    return max((1 << 20) // min(queries, 256), 1 << (32 * k - 1).bit_length())


def _group(chunk: int, k: int) -> int:
    """The largest group, up to 16, that leaves two groups for each of the k."""
    group = 16
    while group > 1 and chunk // group < 2 * k:
        group //= 2
    return group


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
