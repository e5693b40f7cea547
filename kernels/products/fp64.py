"""Products of fp64 matrices: whether they are as precise here as fp64 is."""

import functools
import os

import torch

from ..contract.finite import norms
from ..proofs.fp32 import fp64_slack

_EMULATION = "CUBLAS_EMULATE_DOUBLE_PRECISION"


@functools.cache
def multiplies_in_fp64(device: torch.device) -> bool:
    """Whether products of fp64 matrices are as precise as ``fp64_slack`` says.

    cuBLAS may emulate them (its documentation, "Floating Point Emulation"), and, where it is asked
    to, may do so for large matrices alone, so that a probe shows nothing.
    """
    if device.type == "cuda" and os.environ.get(_EMULATION, "0") not in ("", "0"):
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    for count, width in ((3, 64), (32, 257)):
        shape = 2, count, width
        draws = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        exponents = torch.randint(-60, 60, shape, generator=generator, device="cpu")
        q, p = (draws * torch.exp2(exponents.double())).to(device)
        error = (q @ p.T - (q[:, None] * p).sum(2)).abs()
        if not bool((error <= fp64_slack(width) * norms(q)[:, None] * norms(p)).all()):
            return False
    return True
