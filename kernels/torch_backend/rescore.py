"""Scores as the contract defines them: fp64, one fixed order of summation, rounded once to fp32.

``_definition`` is that evaluation, slow. ``pairs`` and ``chosen`` (some pairs) and ``dense`` (all
pairs of two blocks) give the same bits faster: they evaluate in fp64 in whatever order is fast, and
where that evaluation's error cannot carry the score across an fp32 rounding boundary, its rounding
is the answer. The few pairs left undecided go through ``_definition``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..contract.chunks import Rows
from ..contract.finite import measure_norms, norms
from ..contract.metrics import COSINE_EPS
from ..products.fp64 import multiplies_in_fp64
from ..products.pairs import chosen_dots
from ..proofs.fp32 import fp64_slack

_BLOCK_ELEMENTS = 1 << 18
"""Elements of a block of gathered rows: 2 MiB in fp64, in cache, and enough for two cores."""

_DENSE_SCORES, _DENSE_ELEMENTS = 1 << 17, 1 << 19
"""Scores, and elements of prototypes, that ``dense`` takes at a time: 1 and 4 MiB in fp64. Scoring
4,096 rows at once takes 1.5 to 4 times as long (256 queries, 128 and 512 channels, two threads of
an AMD EPYC with AVX-512)."""

_FEW_UNDECIDED = 1 / 64
"""With fewer pairs left open, it is cheaper to settle them than to ask which have no common
coordinate."""


def pairs(queries: Tensor, prototypes: Rows, rows: Tensor, indices: Tensor, metric: str) -> Tensor:
    """Scores (n,) fp32 of the pairs (queries[rows[i]], prototypes[indices[i]]), both int64."""
    gather = _Gather(queries, prototypes, len(rows))
    sums, p_norms = torch.empty(2, len(rows), dtype=torch.float64, device=queries.device)
    for part, q, p in gather.blocks(rows, indices):
        if metric != "l2":
            measure_norms(p, p_norms[part], prototypes.dtype)
        terms = q.sub_(p).square_() if metric == "l2" else q.mul_(p)
        torch.sum(terms, 1, out=sums[part])
    score, error = _evaluated(sums, norms(queries)[rows], p_norms, metric)
    low, undecided = _rounded(score, error.mul_(fp64_slack(queries.shape[1])))
    if undecided.any():
        left = undecided.nonzero()[:, 0]
        low[left] = _defined(gather, rows[left], indices[left], metric)
    return low + 0.0  # -0 and 0 are one score


def _evaluated(
    sums: Tensor, q_norms: Tensor, p_norms: Tensor, metric: str
) -> tuple[Tensor, Tensor]:
    """fp64 scores from sums of products (l2: of squared differences), and the scale of their error.

    A sum of squares is of like signs: its error is relative to itself.
    """
    if metric == "l2":
        return -sums, sums.clone()
    if metric == "dot":
        return sums, q_norms * p_norms
    q_clamped, p_clamped = q_norms.clamp(min=COSINE_EPS), p_norms.clamp(min=COSINE_EPS)
    return sums / (q_clamped * p_clamped), (q_norms / q_clamped) * (p_norms / p_clamped)


def _rounded(score: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """fp64 -> fp32, and where the error leaves open which number that is (NaN, too, is open)."""
    low, high = (score - error).float(), (score + error).float()
    return low, ~(low == high)


class _Gather:
    """Brings rows of queries and prototypes together, block by block, in fp64.

    Buffers are made once: allocating them for each block would cost more than the copies.
    """

    def __init__(self, queries: Tensor, prototypes: Rows, most: int) -> None:
        channels, device = queries.shape[1], queries.device
        self.queries, self.prototypes = queries.double(), prototypes
        self.size = max(1, min(_BLOCK_ELEMENTS // channels, most))
        self.q, self.p = torch.empty(2, self.size, channels, dtype=torch.float64, device=device)

    def blocks(self, rows: Tensor, indices: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of 0..n with the fp64 rows (b, C) they stand for; to be overwritten at will."""
        for start in range(0, len(rows), self.size):
            part = slice(start, min(start + self.size, len(rows)))
            count = part.stop - start
            q, p = self.q[:count], self.p[:count]
            torch.index_select(self.queries, 0, rows[part], out=q)
            yield part, q, self.prototypes.take(indices[part], p)


def _defined(gather: _Gather, rows: Tensor, indices: Tensor, metric: str) -> Tensor:
    """Scores (n,) fp32 of the pairs, by ``_definition``."""
    out = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    for part, q, p in gather.blocks(rows, indices):
        out[part] = _definition(q, p, metric)
    return out


def _definition(q: Tensor, p: Tensor, metric: str) -> Tensor:
    """fp32 scores (n,) of paired fp64 rows (n, C), each sum in the fixed order of ``_sum``."""
    if metric == "l2":
        return -_sum((q - p).square_()).float()
    score = _sum(q * p)
    if metric == "cosine":
        q_norms, p_norms = _sum(q.square()).sqrt_(), _sum(p.square()).sqrt_()
        score = score / (q_norms.clamp_(min=COSINE_EPS) * p_norms.clamp_(min=COSINE_EPS))
    return score.float()


def _sum(terms: Tensor) -> Tensor:
    """Sum over the last axis by halving: the same order for every batch. Overwrites its input."""
    width = terms.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0]


def _are_apart(queries: Tensor, prototypes: Tensor) -> Tensor:
    """(Q, P) bool: which pairs have no coordinate where neither is 0, as one-hot vectors have none:
    all terms of their scores are 0."""
    return (queries != 0).double() @ (prototypes != 0).double().T == 0


def chosen(
    queries: Tensor, ready: "Ready", prototypes: Tensor, rows: Tensor, columns: Tensor, metric: str
) -> Tensor:
    """As ``pairs``, of finite blocks, ``queries`` also made ``ready``; ``rows`` ascend.

    On a CPU tile by tile of the prototypes, each of which is widened, and none gathered: a tenth of
    the time where there are pairs enough.
    """
    if queries.device.type != "cpu":
        return pairs(queries, Rows([prototypes]), rows, columns, metric)
    step = max(1, _DENSE_ELEMENTS // prototypes.shape[1])
    if len(prototypes) <= step:
        return _of_tile(queries, ready, prototypes, rows, columns, metric)
    out = torch.empty(len(rows), dtype=torch.float32, device="cpu")
    tile_of = torch.div(columns, step, rounding_mode="floor").to(torch.int16)
    by_tile = tile_of.argsort(stable=True)  # so that queries ascend within a tile
    ends = torch.bincount(tile_of, minlength=-(-len(prototypes) // step)).cumsum(0).tolist()
    first = 0
    for start, end in zip(range(0, len(prototypes), step), ends, strict=True):
        here, tile = by_tile[first:end], prototypes[start : start + step]
        pairs_of_tile = rows[here], columns[here] - start
        out[here] = _of_tile(queries, ready, tile, *pairs_of_tile, metric)
        first = end
    return out


def _of_tile(
    queries: Tensor, ready: "Ready", tile: Tensor, rows: Tensor, columns: Tensor, metric: str
) -> Tensor:
    p = Ready(tile, metric)
    scores = chosen_dots(ready.vectors, p.vectors, rows, columns)
    q_norms, p_norms = ready.norms[rows], p.norms[columns]
    error = _made_l2(scores, q_norms, p_norms) if metric == "l2" else q_norms.mul_(p_norms)
    low, undecided = _rounded(scores, error.mul_(fp64_slack(queries.shape[1])))
    left = undecided.nonzero()[:, 0]
    if len(left):
        gather = _Gather(queries, Rows([tile]), len(left))
        low[left] = _defined(gather, rows[left], columns[left], metric)
    return low.add_(0.0)  # -0 and 0 are one score


def dense(queries: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """All scores (Q, P) fp32 of finite blocks (Q, C) and (P, C).

    Holds a few MiB of fp64 scores at a time, which stay in cache until they are rounded.
    """
    if not multiplies_in_fp64(queries.device):
        rows, columns = torch.ones(len(queries), len(prototypes)).nonzero(as_tuple=True)
        rows, columns = rows.to(queries.device), columns.to(queries.device)
        return pairs(queries, Rows([prototypes]), rows, columns, metric).view(len(queries), -1)
    out = queries.new_empty(len(queries), len(prototypes), dtype=torch.float32)
    ready, open_pairs = Ready(queries, metric), []
    step = max(1, min(_DENSE_SCORES // len(queries), _DENSE_ELEMENTS // queries.shape[1]))
    for start in range(0, len(prototypes), step):
        part = prototypes[start : start + step]
        low, undecided = _all_rounded(ready, Ready(part, metric), metric)
        if undecided is not None:
            rows, columns = _left_open(low, undecided, queries, part, metric)
            open_pairs.append((rows, columns + start))
        torch.add(low, 0.0, out=out[:, start : start + step])  # -0 and 0 are one score
    if open_pairs:
        rows, columns = map(torch.cat, zip(*open_pairs, strict=True))
        gather = _Gather(queries, Rows([prototypes]), len(rows))
        out[rows, columns] = _defined(gather, rows, columns, metric) + 0.0
    return out


class Ready:
    """Vectors in fp64, as products take them: cosine's are divided by their lengths."""

    def __init__(self, vectors: Tensor, metric: str) -> None:
        self.norms = norms(vectors)
        """(n,) fp64; cosine: 1, or less where clamped."""
        if metric == "cosine":
            clamped = self.norms.clamp(min=COSINE_EPS)
            self.vectors = torch.div(vectors, clamped[:, None])
            self.norms = self.norms / clamped
        else:
            self.vectors = vectors.double()


def _all_rounded(q: Ready, p: Ready, metric: str) -> tuple[Tensor, Tensor | None]:
    """fp32 scores (Q, P), and which of them an error leaves open; None where it leaves none."""
    scores = q.vectors @ p.vectors.T
    slack, q_norms, p_norms = fp64_slack(q.vectors.shape[1]), q.norms[:, None], p.norms[None, :]
    low, high = torch.empty((2, *scores.shape), dtype=torch.float32, device=scores.device)
    if metric == "l2":
        error = _made_l2(scores, q_norms, p_norms).mul_(slack)
        torch.sub(scores, error, out=low)
        torch.add(scores, error, out=high)
    else:
        torch.addcmul(scores, q_norms * slack, p_norms, value=-1, out=low)
        torch.addcmul(scores, q_norms * slack, p_norms, out=high)
    return low, None if torch.equal(low, high) else ~(low == high)


def _made_l2(products: Tensor, q_norms: Tensor, p_norms: Tensor) -> Tensor:
    """Make l2's scores of ``products``, in place, and return the scale of their error."""
    products.mul_(2).sub_(p_norms.square()).sub_(q_norms.square())
    return (q_norms + p_norms).square_()


def _left_open(
    low: Tensor, undecided: Tensor, queries: Tensor, prototypes: Tensor, metric: str
) -> tuple[Tensor, Tensor]:
    """The pairs that are ``undecided`` (Q, P); where these are many, scores of 0 are seen first."""
    if metric != "l2" and int(undecided.sum()) > _FEW_UNDECIDED * undecided.numel():
        apart = _are_apart(queries, prototypes)
        low.masked_fill_(apart, 0.0)
        undecided &= ~apart
    rows, columns = undecided.nonzero(as_tuple=True)
    return rows, columns
