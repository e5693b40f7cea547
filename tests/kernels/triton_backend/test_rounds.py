"""How a search goes in rounds: where they end, and what their segments hold."""

from collections import Counter
from itertools import pairwise
from math import exp, lgamma, log

import pytest

from flashmatch.kernels.triton_backend import rounds


@pytest.mark.parametrize("growth", [0.1, 1.0, 7.5])
@pytest.mark.parametrize("roomy", [0, 1, 8, 1000])
@pytest.mark.parametrize("tiles", [1, 2, 9, 1000])
def test_rounds_grow_and_end(tiles: int, roomy: int, growth: float) -> None:
    ends = rounds.ends(tiles, roomy, growth)
    assert ends[0] == min(tiles, max(1, roomy))
    assert ends[-1] == tiles
    for before, after in pairwise(ends):
        assert before < after <= (1 + growth) * before + 1


@pytest.mark.parametrize("slots", [rounds.FEW_SLOTS, rounds.MANY_SLOTS])
@pytest.mark.parametrize("k", [1, 10, 300, rounds.MAX_K])
@pytest.mark.parametrize("columns", [1, 8, 16])
@pytest.mark.parametrize("wanted", [0, 1, 3, 8, 100, 264, 5000])
def test_segments_fill_the_slots(wanted: int, columns: int, k: int, slots: int) -> None:
    strips, capacity, growth = rounds.strips_and_capacity(wanted, columns, k, slots)
    assert 1 <= strips <= max(1, wanted)
    assert strips & (strips - 1) == 0
    assert strips * columns * capacity == slots
    assert capacity * columns >= 8  # a tile's groups, if they share a segment
    assert capacity >= rounds.LEAST_CAPACITY // 2
    assert growth == rounds.growth_of(slots, strips * columns, k) > 0


def test_a_longer_list_grows_more_slowly() -> None:
    growths = [rounds.strips_and_capacity(128, 8, k, 1024)[2] for k in (1, 10, 100, 1000)]
    assert growths == sorted(growths, reverse=True)
    strips = [rounds.strips_and_capacity(128, 1, k, 1024)[0] for k in (1, 100, 1000)]
    assert strips == sorted(strips, reverse=True)
    assert strips[-1] == rounds.LEAST_STRIPS < strips[0]


def test_capacities_are_seldom_exceeded() -> None:
    for capacity in (4, 8, 16, 32, 64, 256):
        mean = rounds.few_of(capacity)
        assert 0 < mean < capacity
        within = sum(exp(n * log(mean) - mean - lgamma(n + 1)) for n in range(capacity + 1))
        assert 1 - within < 1e-3


@pytest.mark.parametrize("tiles", [1, 2, 3, 8, 100, 782, 1024, 7813])
def test_every_prefix_of_the_order_is_spread(tiles: int) -> None:
    order = [i * rounds.spread(tiles) % tiles for i in range(tiles)]
    assert sorted(order) == list(range(tiles))
    if tiles >= 100:
        for count in (tiles // 2, max(40, tiles // 10)):
            sizes = Counter(tile % 8 for tile in order[:count])  # of rows, within a page
            assert max(sizes.values()) <= 1.7 * min(sizes.values())
            gaps = [b - a for a, b in pairwise(sorted(order[:count]))]
            assert max(gaps) <= 6 * tiles / count
