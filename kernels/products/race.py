"""Which of two products takes less time on this machine: some rounds, in turn."""

import time
from collections.abc import Callable, Sequence

ROUNDS, TRIES = 3, 3

Product = Callable[[], object]


def are_won(races: Sequence[tuple[Product, Product]]) -> bool:
    """Whether the first of each pair took less time than the second, the fastest of each counting.

    Tried again where another process may have disturbed it.
    """
    return any(all(_is_won(*race) for race in races) for _ in range(TRIES))


def _is_won(ours: Product, theirs: Product) -> bool:
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(ROUNDS)]
    return min(mine for mine, _ in times) < min(other for _, other in times)


def _seconds(product: Product) -> float:
    start = time.perf_counter()
    product()
    return time.perf_counter() - start
