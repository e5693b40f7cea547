"""How a search goes in rounds.

Round after round takes further tiles of prototypes, and appends what reaches the threshold that the
rounds before have proven. The first may have none, so all of its groups are appended: it has as
many tiles as the entries have room for. Each next may have ``growth`` times as many as all before:
of m tiles after m_0, some k * m / m_0 prototypes are better than the k best of the first, and a
screen lets some more pass.

A query's entries lie in segments of ``capacity`` each: one for each strip, and of many queries for
each column of groups. What passes falls into them at random, since the tiles of a strip are spread
evenly: a Poisson number of mean ``few_of(capacity)`` exceeds the capacity about once in 10^4. What
is lost is scanned again; it costs time, never a match.
"""

import functools
from math import gcd

from .tiles import cdiv

MAX_K = 2048
FEW_SLOTS, MANY_SLOTS = 1024, 4096
"""Entries that the program holds which settles a query."""
PASSED_PER_MATCH = 3.0
"""Groups appended for each prototype that is better than the k best before: counted on a CPU, 1.3
to 2.6 of 128 to 256 channels, of 768 1.4 (low rank) and 4.6 (Gaussian): docs/decisions/0017."""
LEAST_GROWTH, LEAST_CAPACITY = 4.0, 8
"""Below either, queries get many slots: with segments of 4, two in five of 768 Gaussian channels
lost entries."""
LEAST_STRIPS = 8
PACK = 8  # groups whose members are looked at together


def ends(tiles: int, roomy: int, growth: float) -> list[int]:
    """Where the rounds of so many tiles end, of which there is always room for ``roomy``."""
    found = [min(tiles, max(1, roomy))]
    while found[-1] < tiles:
        found.append(min(tiles, int(found[-1] * (1 + growth)) + 1))
    return found


def strips_and_capacity(
    wanted: int, columns: int, k: int, slots: int
) -> tuple[int, int, float]:  # fmt: skip
    """Strips, of which a power of two is ``wanted``; entries of a segment; and the growth."""
    least = LEAST_CAPACITY if slots == FEW_SLOTS else LEAST_CAPACITY // 2
    least = max(least, 8 // columns)  # a tile of the few has eight groups for one segment
    strips = min(_power_of_two(wanted), slots // (least * columns))
    while strips > LEAST_STRIPS and growth_of(slots, strips * columns, k) < 1:
        strips //= 2  # larger segments are fuller
    return strips, slots // (strips * columns), growth_of(slots, strips * columns, k)


def growth_of(slots: int, segments: int, k: int) -> float:
    """How many tiles a round may have for each that was seen before."""
    return few_of(slots // segments) * segments / (PASSED_PER_MATCH * k)


def few_of(capacity: int) -> float:
    """The mean of a Poisson number that seldom exceeds ``capacity``."""
    return ((capacity + 4) ** 0.5 - 2) ** 2


def room_for(k: int) -> int:
    """Keys that may wait beside the k best of a query."""
    return cdiv(max(k, 256), 128) * 128


@functools.lru_cache
def spread(tiles: int) -> int:
    """The step of an order in which every prefix of the tiles is spread evenly.

    By the golden ratio. Odd, since rows of a page are sorted by size and a page is 8 tiles: an even
    step would visit some sizes first.
    """
    step = int(tiles * 0.6180339887) | 1
    while gcd(step, tiles) > 1:
        step += 2
    return step % tiles if tiles > 1 else 0


def _power_of_two(number: int) -> int:
    """The largest that is not above ``number``; 1 at least."""
    return 1 << max(0, number.bit_length() - 1)
