"""A random rotation that spreads a few huge coordinates over all of them, for any width.

Signs at random, then a Walsh-Hadamard transform of the first n coordinates, then signs and a
transform of the last n, where n is the largest power of two that fits. Every step is orthogonal, so
scalar products stay what they are, and each coordinate is spread over n others. (Randomised
Hadamard transform: Ailon and Chazelle, "The Fast Johnson-Lindenstrauss Transform", 2009.)
"""

import torch
from torch import Tensor


class Rotation:
    """The rotation of vectors of ``channels`` coordinates that ``seed`` stands for."""

    def __init__(self, channels: int, seed: int, device: torch.device) -> None:
        self.channels, self.seed = channels, seed
        self.stages = channels.bit_length() - 1
        generator = torch.Generator("cpu").manual_seed(seed)
        draws = torch.randint(2, (2, channels), generator=generator, dtype=torch.int8, device="cpu")
        self.signs = (2 * draws - 1).to(device)

    @property
    def roundings(self) -> int:
        """Roundings on the way of a coordinate: relative error in u, of the vector's norm.

        Each butterfly rounds its outputs once and doubles the squared norm; scaling by n^-1/2 is a
        rounded factor and a rounded product. Both transforms: 2 (stages + 2).
        """
        return 2 * (self.stages + 2)

    def __call__(self, vectors: Tensor) -> Tensor:
        """(n, C) fp32 or fp64, rotated, in the same dtype."""
        width = 1 << self.stages
        rotated = vectors * self.signs[0]
        rotated[:, :width] = _transformed(rotated[:, :width])
        rotated *= self.signs[1]
        rotated[:, -width:] = _transformed(rotated[:, -width:])
        return rotated


def _transformed(vectors: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of (n, 2^m)."""
    count, width = vectors.shape
    step = 1
    while step < width:
        halves = vectors.reshape(count, -1, 2, step)
        first, second = halves[:, :, 0], halves[:, :, 1]
        vectors = torch.stack((first + second, first - second), 2).view(count, width)
        step *= 2
    return vectors * width**-0.5
