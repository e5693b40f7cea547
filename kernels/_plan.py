"""How a search is cut up: a pure function of its shape. Tuning lives here and nowhere else."""

from dataclasses import dataclass

DENSE_PAIRS = 1 << 15
"""Up to so many (query, prototype) pairs, screening costs more calls than it saves arithmetic."""


@dataclass(frozen=True)
class Plan:
    """Blocks of a search on the torch body.

    ``group`` prototypes share one maximum; 1 compares every score. ``screened=False`` evaluates
    every score exactly, which is cheaper where most of them are wanted or there are few.
    """

    query_rows: int
    chunk_rows: int
    group: int
    screened: bool


def plan(
    queries: int, rows: int, channels: int, k: int, workspace: int, chunk_rows: int | None
) -> Plan:
    """The plan for Q queries, M rows, C channels within ``workspace`` bytes.

    What is held, in bytes: per query 48 C (the block in fp64, and its squares) and 64 k (keys being
    merged); per chunk row 32 C; per pair of a block 64 when scored densely. Each gets a share.
    """
    screened = queries * rows > DENSE_PAIRS and 4 * k <= rows
    chunk = chunk_rows or _chunk_rows(queries, channels, k)
    chunk = _clamp(chunk, 1, min(rows, workspace // 4 // (32 * channels)))
    block = workspace // 4 // (48 * channels + 64 * k + 64)
    block = _clamp(min(block, workspace // 4 // (64 * chunk)), 1, 1024)
    return Plan(_clamp(block, 1, queries), chunk, _group(chunk, k), screened)


def _chunk_rows(queries: int, channels: int, k: int) -> int:
    """Small enough for its scores to stay in cache, large enough to hold 32 k rows.

    With few queries the prototypes themselves are what is read: about 16 MiB at a time.
    """
    if queries >= 32:
        return max(4096, 1 << (32 * k - 1).bit_length() if k else 0)
    return max(4096, 32 * k, (1 << 22) // channels)


def _group(chunk: int, k: int) -> int:
    """The largest group, up to 16, that leaves two groups for each of the k."""
    group = 16
    while group > 1 and chunk // group < 2 * k:
        group //= 2
    return group


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
