"""How fp32 products round their operands on this machine: what settings allow, what a probe shows.

torch's settings are not the only ones. Libraries have their own, some of them in the environment
alone. Whatever allows less than IEEE's products is taken at its word, and whatever says nothing is
measured, once for a device and a setting.
"""

import functools
import math
import os
from collections.abc import Callable

import torch
from torch import Tensor

BF16 = 2.0**-7
"""bf16, truncated: the least precision that a screen in fp32 can be proven with."""
TF32 = 2.0**-10
"""TF32, truncated."""

_STRICT = frozenset(("none", "ieee", "highest"))
_ENVIRONMENT = {
    # oneDNN reads either name (its developer guide, "Floating-point Math Mode").
    "cpu": ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    "cuda": (
        "NVIDIA_TF32_OVERRIDE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "CUBLAS_EMULATE_SINGLE_PRECISION",
        "HIPBLASLT_ALLOW_TF32",
    ),
}
_ALLOWED = {"": 0.0, "0": 0.0, "strict": 0.0, "1": BF16, "tf32": BF16, "bf16": BF16}


def operand_roundoff(device: torch.device) -> float:
    """The relative precision to which products on ``device`` may round fp32 operands.

    0 for IEEE, at most ``BF16`` where a screen by such products can be proven, inf where it cannot.
    """
    settings = _settings(device)
    allowed = max(BF16 * (settings != _STRICT), _allowed_by_environment(device.type))
    return max(allowed, _measured(device, settings, torch.mm, torch.addmm))


def _settings(device: torch.device) -> frozenset[str]:
    """What torch's settings say: ``_STRICT``, or more.

    fp32_precision settings exist from torch 2.9 on.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    settings = {
        getattr(torch.backends, "fp32_precision", "none"),
        getattr(backend, "fp32_precision", "none"),
        getattr(getattr(backend, "matmul", None), "fp32_precision", "none"),
    }
    try:
        settings.add(torch.get_float32_matmul_precision())
        if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
            settings.add("tf32")
    except RuntimeError:
        settings.add("legacy and new, mixed")
    return _STRICT | settings


@functools.cache
def _allowed_by_environment(device_type: str) -> float:
    """fp16 has another range: relative precision says nothing of it, nor of a mode unknown here."""
    values = (os.environ.get(name, "") for name in _ENVIRONMENT.get(device_type, ()))
    return max((_ALLOWED.get(value.lower(), math.inf) for value in values), default=0.0)


@functools.cache
def _measured(device: torch.device, settings: frozenset[str], *products: object) -> float:
    """The precision that products show.

    ``settings`` and ``products``, torch's functions, which emulators replace, say when to measure
    again.
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        error = max(_error_of(multiply, device) for multiply in (_mm, _addmm, _chosen))
    return next((known for known in (0.0, TF32, BF16) if error <= known), math.inf)


def _error_of(multiply: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> float:
    """The largest relative error among products of one term each, in which IEEE's have none.

    Few and many rows, since libraries choose among kernels; small and large numbers, which fp16
    does not have.
    """
    largest = 0.0
    for count, width, scale in ((1, 64, 1.0), (3, 256, 2.0**-40), (64, 256, 2.0**40)):
        steps = torch.arange(1, 2 * count * width, 2, dtype=torch.float64, device=device)
        values = 1 + (steps * 61 * 2.0**-23) % 1  # every one takes all 24 bits
        values = (values * scale).view(count, width)
        floats, units = values.float(), torch.eye(width, dtype=torch.float32, device=device)
        for product in (multiply(floats, units), multiply(units, floats).T):
            error = float((product.double() / values - 1).abs().max())
            largest = max(largest, math.inf if math.isnan(error) else error)
    return largest


def _mm(queries: Tensor, prototypes: Tensor) -> Tensor:
    out = queries.new_empty(len(queries), len(prototypes))
    torch.mm(queries, prototypes.T, out=out)
    return out


def _addmm(queries: Tensor, prototypes: Tensor) -> Tensor:
    out = queries.new_empty(len(queries), len(prototypes))
    torch.addmm(queries.new_zeros(len(prototypes)), queries, prototypes.T, out=out)
    return out


def _chosen(queries: Tensor, prototypes: Tensor) -> Tensor:
    from .pairs import chosen_dots

    shape = len(queries), len(prototypes)
    rows = torch.arange(shape[0], device=queries.device).repeat_interleave(shape[1])
    columns = torch.arange(shape[1], device=queries.device).repeat(shape[0])
    return chosen_dots(queries, prototypes, rows, columns).view(shape)
