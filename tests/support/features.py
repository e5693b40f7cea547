"""Vectors as encoders, pixels and codes make them: what an int8 screen finds hard."""

import torch
from problems import vectors
from torch import Tensor

FEATURES = (
    "relu",
    "heavy",  # a few coordinates carry most of the norm
    "pixels",  # integers 0 to 255, much alike
    "clustered",  # few places, each held by many rows
    "codes",  # what int8 codes represent exactly
    "onehot",
    "tiny",  # norms near 1e-30
    "large",  # norms near 1e17
    "negative",  # every scalar product with a positive query is below zero
)


def features(kind: str, rows: int, channels: int, generator: torch.Generator) -> Tensor:
    """(rows, channels) fp64 of one of FEATURES, or of the kinds of ``problems.vectors``."""
    if kind not in FEATURES:
        return vectors(kind, rows, channels, generator)
    x = vectors("gaussian", rows, channels, generator)
    if kind == "relu":
        return x.relu()
    if kind == "heavy":
        x[:, :: max(1, channels // 3)] *= 40
        return x
    if kind == "pixels":
        return (x * 12 + torch.linspace(0, 255, channels)).clamp(0, 255).round()
    if kind == "clustered":
        return x[torch.randint(max(1, rows // 40), (rows,), generator=generator)]
    if kind == "codes":
        codes = torch.randint(-127, 128, (rows, channels), generator=generator).double()
        codes[:, 0] = 127
        return codes
    if kind == "onehot":
        return torch.eye(channels, dtype=torch.float64)[
            torch.randint(channels, (rows,), generator=generator)
        ]
    if kind == "negative":
        return -x.abs() - 1
    return x * (1e-30 if kind == "tiny" else 1e17) / channels**0.5
