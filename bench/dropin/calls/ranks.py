"""What two libraries have for the k best: the same, but for what scores the same.

The originals round: another prototype counts as equal where its score, by the vectors, is that of
the original's to six digits.
"""

import torch
from torch import Tensor

from flashmatch.kernels import Matches

NEAR = 1e-6
"""Between two scores of unit vectors, in fp32."""


def share(original: Matches, ours: Matches, evaluated: Tensor) -> float:
    """Of all ranks, at how many ours is the original's, or as good.

    ``evaluated`` (Q, k): what our prototypes score by the vectors.
    """
    as_good = ours.indices.eq(original.indices) | _near(evaluated, original.scores)
    return (as_good & _near(ours.scores, original.scores)).double().mean().item()


def evaluated(queries: Tensor, prototypes: Tensor, indices: Tensor) -> Tensor:
    """(Q, C), (M, C) and (Q, k) -> (Q, k) inner products; none of the indices is -1."""
    return torch.einsum("qc,qkc->qk", queries, prototypes[indices])


def _near(scores: Tensor, others: Tensor) -> Tensor:
    return (scores - others).abs() <= NEAR
