"""The two products that the int8 screen is made of: of int8 matrices, and of chosen fp32 rows."""

# torch._int_mm is the one product of int8 matrices that torch has.
# pyright: reportPrivateImportUsage=false

import functools
import os
import warnings

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..contract.chunks import require_rows
from ..proofs.int8 import LARGEST_CODE

_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_MIC", "AVX512_MIC_4OPS", "AVX512_CORE")
"""Names of oneDNN's for what it may use at most (its developer guide, "CPU Dispatcher Control")."""

_PAIR_ELEMENTS = 1 << 22
"""Elements of chosen rows gathered at a time where they cannot be read in place."""


@functools.cache
def is_exact(device_type: str) -> bool:
    """Whether torch multiplies int8 matrices without loss here, even the largest codes.

    Without VNNI, x86 units add pairs of products in int16, which saturates; oneDNN goes another
    way there. Tensor cores add in int32.
    """
    if device_type != "cpu":
        return device_type == "cuda"
    for count, width in ((1, 4), (32, 512), (33, 1000)):
        most = torch.full((count, width), LARGEST_CODE, dtype=torch.int8, device="cpu")
        out = torch.zeros(count, count, dtype=torch.int32, device="cpu")
        if not bool((torch._int_mm(most, -most.T, out=out) == -width * LARGEST_CODE**2).all()):
            return False
    return True


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
    """(Q, C) and (P, W >= C) int8 -> (Q, P) int32, on a CPU written to ``out``.

    cuBLAS wants more than 16 queries, and multiples of 8: ``Layout.width_multiple`` sees to W.
    """
    width = prototypes.shape[1] - queries.shape[1]
    if width:
        queries = pad(queries, (0, width))
    if queries.device.type == "cpu":
        return torch._int_mm(queries, prototypes.T, out=out)
    missing = max(32 - len(queries), -len(queries) % 8)
    return torch._int_mm(pad(queries, (0, 0, 0, missing)), prototypes.T)[: len(queries)]


def chosen_dots(queries: Tensor, prototypes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """fp32 products (n,) of queries[rows[i]] and prototypes[columns[i]]; ``rows`` ascend.

    On a CPU, both are read in place, nothing is gathered: a CSR pattern says which pairs. torch
    does not look whether its columns exist, and would read whatever lies behind the prototypes.
    """
    require_rows(columns, len(prototypes))
    if queries.device.type != "cpu":
        return _gathered_dots(queries, prototypes, rows, columns)
    _quiet_csr()
    bounds = torch.arange(len(queries) + 1, device="cpu")
    pairs = torch.sparse_csr_tensor(
        torch.searchsorted(rows.contiguous(), bounds),
        columns,
        queries.new_zeros(len(columns)),
        size=(len(queries), len(prototypes)),
        device="cpu",
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(pairs, queries, prototypes.T, beta=0.0).values()


def _gathered_dots(queries: Tensor, prototypes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    step = max(1, _PAIR_ELEMENTS // queries.shape[1])
    parts = [
        (queries[r] * prototypes[c]).sum(1)
        for r, c in zip(rows.split(step), columns.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else queries.new_empty(0)


@functools.cache
def _quiet_csr() -> None:
    """Make torch say now, unheard, that its CSR tensors are in beta; it says so once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1), dtype=torch.float32)
