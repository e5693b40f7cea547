"""Numbers at the ends of every dtype, in every metric, by every entrance, against the oracle."""

import math
import random
from collections import Counter

import torch
from problems import DTYPES, METRICS, Problem, assert_exact
from screens import CODED
from torch import Tensor

from flashmatch import PrototypeBank, topk


def run(count: int, seed: int) -> Counter[str]:
    chosen, outcomes = random.Random(seed), Counter[str]()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        problem = drawn(chosen, generator)
        for name, search in (("topk", _raw), ("bank", _bank)):
            try:
                assert_exact(search(problem, chosen), problem)
                outcomes[name] += 1
            except AssertionError as error:
                outcomes[f"WRONG, {name}: {problem}: {str(error)[:200]}"] += 1
            except Exception as error:
                outcomes[f"ESCAPED, {name}: {problem}: {type(error).__name__}: {error}"] += 1
    return outcomes


def drawn(chosen: random.Random, generator: torch.Generator) -> Problem:
    dtypes, channels = [chosen.choice(DTYPES) for _ in range(2)], chosen.choice((1, 2, 3, 8, 33))
    rows, count = chosen.choice((1, 9, 150, 1500, 3000)), chosen.choice((1, 3, 20))
    queries = extreme(count, channels, dtypes[0], chosen, generator)
    prototypes = extreme(rows, channels, dtypes[1], chosen, generator)
    mask = None
    if chosen.random() < 0.3:
        shape = chosen.choice(((rows,), (count, rows)))
        mask = torch.rand(shape, generator=generator) < 0.7
    k = chosen.choice((1, min(7, rows), rows))
    return Problem(queries, [prototypes], k, chosen.choice(METRICS), mask, "exclude", None)


def extreme(
    rows: int, channels: int, dtype: torch.dtype, chosen: random.Random, generator: torch.Generator
) -> Tensor:
    """(rows, channels) of a few numbers that few would try, alone or among ordinary ones."""
    about = torch.finfo(dtype)
    largest = min(about.max, 1e150)  # beyond, a norm is beyond fp64, which is another contract
    smallest = about.smallest_normal
    numbers = [0.0, -0.0, 1.0, 1 + about.eps, about.eps, largest, math.sqrt(largest), 1 / largest]
    numbers += [smallest, smallest * about.eps, math.sqrt(smallest), 1e-8, 3e-45, 1e-39, 1e38]
    some = chosen.sample(numbers, chosen.randint(1, 5))
    values = torch.tensor([*some, *(-x for x in some)], dtype=torch.float64)
    at = torch.randint(len(values), (rows, channels), generator=generator)
    x = values[at]
    if chosen.random() < 0.5:  # one size for all, in ordinary proportions
        x = torch.randn(rows, channels, generator=generator).double() * chosen.choice(some)
    if chosen.random() < 0.2:
        x[torch.rand(rows, generator=generator) < 0.2] = chosen.choice((math.nan, math.inf))
    limited = x.where(~x.isfinite(), x.clamp(-largest, largest))
    return limited.to(dtype)


def _raw(problem: Problem, chosen: random.Random) -> tuple[Tensor, Tensor]:
    options = problem.options() | {"chunk_rows": chosen.choice((None, 1, 100))}
    return topk(problem.queries, problem.prototypes, problem.k, **options)


def _bank(problem: Problem, chosen: random.Random) -> tuple[Tensor, Tensor]:
    screen = chosen.choice((CODED, "float"))
    bank = PrototypeBank(
        problem.prototypes, metric=problem.metric, screen=screen, nonfinite="exclude"
    )
    return bank.topk(problem.queries, problem.k, mask=problem.mask)
