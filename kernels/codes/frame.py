"""The frame that vectors are coded in: an origin, and a rotation where it pays."""

import torch
from torch import Tensor

from ..contract.metrics import COSINE_EPS
from ..proofs import int8
from .rotation import Rotation

ROTATION_PAYS = 0.7
"""A rotation is used where it brings the error down to this share: it costs time when coding."""


class Frame:
    """What is done to vectors before they are coded: see proofs/int8.py."""

    def __init__(self, metric: str, origin: Tensor, rotation: Rotation | None) -> None:
        """``origin`` (C,) fp32."""
        self.metric, self.origin, self.rotation = metric, origin, rotation
        self.origin_norm = float(torch.linalg.vector_norm(origin, dtype=torch.float64))

    @property
    def roundings(self) -> int:
        return self.rotation.roundings if self.rotation else 0

    def prototypes(self, rows: Tensor, norms: Tensor) -> Tensor:
        """(n, C) fp32 in the frame, from finite rows as given and their norms (n,) in fp32."""
        vectors = rows.float()
        if self.metric == "cosine":
            inverse = norms.clamp(min=COSINE_EPS).reciprocal()
            vectors = vectors * inverse[:, None]
        vectors = vectors - self.origin
        return self.rotation(vectors) if self.rotation else vectors

    def queries(
        self, queries: Tensor, norms: Tensor, largest: int = int8.LARGEST_CODE
    ) -> int8.CodedQueries:
        """From finite queries (Q, C) as given and norms (Q,) fp64; codes up to ``largest``."""
        vectors, origin = queries.double(), self.origin.double()
        if self.metric == "cosine":
            vectors = vectors / norms.clamp(min=COSINE_EPS)[:, None]
        shift = vectors @ origin
        if self.metric == "l2":
            shift -= 0.5 * origin.square().sum()
            vectors = vectors - origin
        moved = self.rotation(vectors) if self.rotation else vectors
        return int8.code_queries(moved, self.origin_norm, shift, largest)


def fitted_frame(sample: Tensor, metric: str, seed: int = 0) -> Frame:
    """A frame for vectors like ``sample`` (n, C): their median for an origin, rotated if it pays.

    The median, not the mean: a single giant would move the mean away from all the others.
    """
    sample = sample.float()
    norms = torch.linalg.vector_norm(sample, dim=1)
    finite = norms.isfinite()
    sample, norms = sample[finite], norms[finite]
    channels, device = sample.shape[1], sample.device
    plain = Frame(metric, torch.zeros(channels, dtype=torch.float32, device=device), None)
    if len(sample) == 0:
        return plain
    vectors = plain.prototypes(sample, norms)
    origin = _medians(vectors)
    shifted = vectors - origin
    rotation = Rotation(channels, seed, device)
    error, rotated_error = _typical_error(shifted), _typical_error(rotation(shifted))
    return Frame(metric, origin, rotation if rotated_error < ROTATION_PAYS * error else None)


def _medians(vectors: Tensor) -> Tensor:
    """(C,) the median of each coordinate of (n, C), the lower of two.

    Elsewhere than on a CPU torch refuses a median of columns where programs ask that all be
    deterministic, since it gives indices, too.
    """
    if vectors.device.type == "cpu":
        return vectors.median(0).values
    return vectors.sort(0).values[(len(vectors) - 1) // 2]


def _typical_error(vectors: Tensor) -> float:
    """The mean error of int8 codes of (n, C) with a scale each, relative to their norms."""
    norms = torch.linalg.vector_norm(vectors, dim=1).clamp(min=COSINE_EPS)
    scale = int8.scale_of(vectors.abs().amax(1))[:, None]
    residual = vectors - (vectors / scale).round_() * scale
    return float((torch.linalg.vector_norm(residual, dim=1) / norms).mean())
