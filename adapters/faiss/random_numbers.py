"""Arrays of random numbers by seed, as FAISS's scripts make their vectors; other numbers."""

import numpy as np

Shape = int | tuple[int, ...]


def rand(n: Shape, seed: int = 12345) -> np.ndarray:
    """float32 of shape ``n``, uniform in [0, 1)."""
    return np.random.default_rng(seed).random(n, dtype=np.float32)


def randn(n: Shape, seed: int = 12345) -> np.ndarray:
    """float32 of shape ``n``, normal."""
    return np.random.default_rng(seed).standard_normal(n, dtype=np.float32)


def randint(n: Shape, seed: int = 12345, vmax: int | None = None) -> np.ndarray:
    """int64 of shape ``n``, from 0 to ``vmax`` - 1, or to 2^63 - 1."""
    largest = np.iinfo(np.int64).max if vmax is None else vmax - 1
    return np.random.default_rng(seed).integers(0, largest, n, endpoint=True)
