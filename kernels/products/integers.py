"""Products of int8 matrices: whether they are exact here, and fast, and how torch is asked."""

# torch._int_mm is the one product of int8 matrices that torch has.
# pyright: reportPrivateImportUsage=false

import functools
import itertools
import os

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..proofs.int8 import LARGEST_CODE

_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_MIC", "AVX512_MIC_4OPS", "AVX512_CORE")
"""Names of oneDNN's for what it may use at most (its developer guide, "CPU Dispatcher Control")."""


@functools.cache
def is_exact(device_type: str) -> bool:
    """Whether torch multiplies int8 matrices without loss here, even the largest codes.

    Without VNNI, x86 units add pairs of products in int16, which saturates; oneDNN goes another
    way there. cuBLAS has no such products for chips before sm_75.
    """
    if device_type not in ("cpu", "cuda"):
        return False
    signs = itertools.product((1, -1), repeat=2)
    return all(
        _is_right(device_type, count, width, sign, other)
        for sign, other in signs
        for count, width in ((1, 4), (32, 512), (33, 1000))
    )


def _is_right(device_type: str, count: int, width: int, sign: int, other: int) -> bool:
    """Of the largest codes, of these signs.

    Units that take one side as unsigned add 128 to it: only one of the signs becomes large.
    """
    most = torch.full((count, width), LARGEST_CODE, dtype=torch.int8, device=device_type)
    rows = most * other
    if device_type == "cuda":  # multiples, as cuBLAS wants them
        rows = pad(rows, (0, -width % 16)).repeat(8, 1)
    out = torch.zeros(count * len(rows), dtype=torch.int32, device=device_type)
    try:
        products = multiply_codes(most * sign, rows, out)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return bool((products == sign * other * width * LARGEST_CODE**2).all())


@functools.cache
def is_fast(device_type: str) -> bool:
    """Whether this CPU has units for it, which oneDNN may use."""
    return not why_not_fast(device_type)


def why_not_fast(device_type: str) -> str:
    """The reason, or nothing: VNNI, which AMX implies, is four products in one instruction."""
    if device_type != "cpu":
        return "it is no CPU"
    if not getattr(torch.cpu, "_is_vnni_supported", lambda: False)():
        return "this CPU has no VNNI"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _WITHOUT_VNNI:
        return f"ONEDNN_MAX_CPU_ISA={limit} keeps oneDNN from using VNNI"
    return "" if is_exact(device_type) else "products of int8 are not exact here"


def multiply_codes(queries: Tensor, prototypes: Tensor, out: Tensor) -> Tensor:
    """(Q, C) and (P, W >= C) int8 -> (Q, P) int32, on a CPU written to ``out`` (Q P,) int32.

    There the products of a prototype lie side by side: oneDNN packs the second of two matrices for
    its units, which is quicker done for the few queries.
    cuBLAS wants more than 16 queries, and multiples of 8: ``Layout.width_multiple`` sees to W.
    """
    width = prototypes.shape[1] - queries.shape[1]
    if width:
        queries = pad(queries, (0, width))
    if queries.device.type == "cpu":
        out = out.view(len(prototypes), len(queries))
        return torch._int_mm(prototypes, queries.T, out=out).T
    missing = max(32 - len(queries), -len(queries) % 8)
    return torch._int_mm(pad(queries, (0, 0, 0, missing)), prototypes.T)[: len(queries)]
