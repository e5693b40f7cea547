"""Matching problems for every leg, and the one assertion they are held to."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from flashmatch.kernels import Matches
from flashmatch.kernels.contract import reference
from flashmatch.kernels.verify import verify

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
METRICS = ("cosine", "dot", "l2")
KINDS = (
    "gaussian",
    "integers",  # many equal scores
    "duplicates",  # equal rows
    "identical",  # one row, M times
    "zeros",  # zero rows among others
    "ulps",  # near-ties: rows one fp32 ulp apart in one channel
    "scales",  # norms from 1e-18 to 1e18 in one set
    "denormals",
    "offset",  # far from the origin: l2 cancels
    "sorted",  # best matches last: every chunk brings better ones
    "giant",  # one giant norm among small ones
)


@dataclass(frozen=True)
class Problem:
    queries: Tensor
    prototypes: list[Tensor]
    k: int
    metric: str
    mask: Tensor | None = None
    nonfinite: str = "raise"
    chunk_rows: int | None = None

    def __repr__(self) -> str:
        shapes = [(tuple(p.shape), p.stride(), p.dtype) for p in (self.queries, *self.prototypes)]
        mask = None if self.mask is None else tuple(self.mask.shape)
        return f"Problem({shapes}, k={self.k}, {self.metric}, mask={mask}, {self.nonfinite}, \
chunk_rows={self.chunk_rows})"

    @property
    def rows(self) -> int:
        return sum(len(p) for p in self.prototypes)

    def options(self) -> dict:
        names = ("metric", "mask", "nonfinite", "chunk_rows")
        return {name: getattr(self, name) for name in names}

    def oracle(self) -> tuple[Tensor, Tensor]:
        prototypes = torch.cat([p.double() for p in self.prototypes])  # exact for every dtype
        return reference.topk(
            self.queries, prototypes, self.k, self.metric, self.mask, self.nonfinite
        )

    def replace(self, **changes: object) -> "Problem":
        return dataclasses.replace(self, **changes)


def assert_exact(matches: tuple[Tensor, Tensor], problem: Problem) -> None:
    """Indices equal, ties included, and scores equal bit for bit.

    The one exception the contract makes, scores whose fp64 evaluations lie on both sides of an fp32
    rounding boundary, is left to ``verify``, which settles it in exact arithmetic.
    """
    scores, indices = (part.cpu() for part in matches)
    expected_scores, expected_indices = problem.oracle()
    assert scores.dtype == torch.float32
    assert indices.dtype == torch.int64
    assert scores.shape == indices.shape == expected_indices.shape
    same = scores.view(torch.int32) == expected_scores.view(torch.int32)
    if bool((same & (indices == expected_indices)).all()):
        return
    assert not bool(((scores == 0) & scores.signbit()).any()), "a score is -0"
    report = verify(
        problem.queries.cpu(),
        [chunk.cpu() for chunk in problem.prototypes],
        Matches(scores, indices),
        metric=problem.metric,
        mask=None if problem.mask is None else problem.mask.cpu(),
    )
    assert report, (
        f"{int((indices != expected_indices).sum())} of {indices.numel()} indices differ: "
        f"{indices.tolist()} instead of {expected_indices.tolist()}; {report}"
    )


def vectors(kind: str, rows: int, channels: int, generator: torch.Generator) -> Tensor:
    """(rows, channels) fp64, to be cast; the kinds are what exactness finds hard."""
    x = torch.randn(rows, channels, dtype=torch.float64, generator=generator)
    if kind == "integers":
        return x.round()
    if kind == "duplicates" and rows:
        return x[torch.randint(max(1, rows // 7), (rows,), generator=generator)]
    if kind == "identical":
        return x[:1].repeat(rows, 1)
    if kind == "zeros":
        return x * (torch.rand(rows, 1, generator=generator) > 0.4)
    if kind == "ulps" and rows:
        x = x[:1].float().repeat(rows, 1)
        steps = torch.randint(-2, 3, (rows,), generator=generator)
        column = torch.randint(channels, (rows,), generator=generator)
        at = (torch.arange(rows), column)
        x.view(torch.int32)[at] += steps.int()
        return x.double()
    if kind == "scales":
        return x * 10.0 ** torch.empty(rows, 1, dtype=torch.float64).uniform_(
            -18, 18, generator=generator
        )
    if kind == "denormals":
        return x * 2.0**-140
    if kind == "offset":
        return x + 1000
    if kind == "sorted":
        return x.sort(0).values
    if kind == "giant" and rows:
        x[int(torch.randint(rows, (), generator=generator))] *= 1e12
    return x
