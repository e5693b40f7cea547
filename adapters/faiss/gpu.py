"""Indexes moved between the CPU and CUDA devices; FAISS's objects that say how are taken.

Results are the same on every device, so that what FAISS's options trade is not for sale here: they
have no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...kernels.contract.arguments import require_int
from .arrays import Array, require_out, returned
from .flat import IndexFlatIP, IndexFlatL2
from .index import Index, require_index
from .metrics import METRIC_L2
from .search import knn
from .tensors import matrix

_AnyIndex = TypeVar("_AnyIndex", bound=Index)


class StandardGpuResources:
    """Torch has the memory and the streams: what is set here has no effect."""

    def noTempMemory(self) -> None: ...

    def setTempMemory(self, size: int) -> None: ...

    def setPinnedMemory(self, size: int) -> None: ...

    def setDefaultStream(self, device: int, stream: Any) -> None: ...

    def revertDefaultStream(self, device: int) -> None: ...

    def setDefaultNullStreamAllDevices(self) -> None: ...

    def setLogMemoryAllocations(self, enable: bool) -> None: ...

    def syncDefaultStreamCurrentDevice(self) -> None:
        """Wait for the current CUDA device."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()


class GpuClonerOptions:
    """FAISS's options by name; any other name is an AttributeError."""

    __slots__ = (
        "allowCpuCoarseQuantizer", "indicesOptions", "reserveVecs", "storeTransposed", "useFloat16",
        "useFloat16CoarseQuantizer", "usePrecomputed", "use_cuvs", "verbose",
    )  # fmt: skip

    def __init__(self) -> None:
        for name in GpuClonerOptions.__slots__:
            setattr(self, name, 0 if name in ("indicesOptions", "reserveVecs") else False)


class GpuMultipleClonerOptions(GpuClonerOptions):
    """The same, and how FAISS divides an index among devices."""

    __slots__ = ("common_ivf_quantizer", "shard", "shard_type")

    def __init__(self) -> None:
        super().__init__()
        self.shard, self.shard_type, self.common_ivf_quantizer = False, 1, False


class GpuIndexFlatConfig:
    """``device``, the number of a CUDA device, and options without effect."""

    __slots__ = ("device", "memorySpace", "storeTransposed", "useFloat16", "use_cuvs")

    def __init__(self) -> None:
        self.device = self.memorySpace = 0
        self.storeTransposed = self.useFloat16 = self.use_cuvs = False


class GpuIndexFlatL2(IndexFlatL2):
    """``GpuIndexFlatL2(resources, d, config)``: an ``IndexFlatL2`` on a CUDA device."""

    __slots__ = ()

    def __init__(self, resources: object, d: int, config: GpuIndexFlatConfig | None = None) -> None:
        super().__init__(d, device=_configured(config))


class GpuIndexFlatIP(IndexFlatIP):
    """``GpuIndexFlatIP(resources, d, config)``: an ``IndexFlatIP`` on a CUDA device."""

    __slots__ = ()

    def __init__(self, resources: object, d: int, config: GpuIndexFlatConfig | None = None) -> None:
        super().__init__(d, device=_configured(config))


def get_num_gpus() -> int:
    """``torch.cuda.device_count()``"""
    return torch.cuda.device_count()


def index_cpu_to_gpu(
    provider: object, device: int, index: _AnyIndex, options: object = None
) -> _AnyIndex:
    """A copy of ``index`` on CUDA device number ``device``, where it searches and is added to.

    Raises:
        RuntimeError: torch sees no CUDA device.
        ValueError: it sees fewer.
    """
    return moved(index, cuda_device("device", device))


def index_cpu_to_gpu_multiple(
    provider: object, devices: Sequence[int], index: _AnyIndex, options: object = None
) -> _AnyIndex:
    """A copy of ``index`` on the first of ``devices``: one index is not divided here."""
    return index_cpu_to_gpus_list(index, options, devices)


def index_cpu_to_gpus_list(
    index: _AnyIndex, co: object = None, gpus: Sequence[int] | None = None, ngpu: int = -1
) -> _AnyIndex:
    """A copy of ``index`` on the first of ``gpus``; None = as ``index_cpu_to_all_gpus``."""
    if gpus is None:
        return index_cpu_to_all_gpus(index, co, ngpu)
    if len(gpus) == 0:
        raise ValueError("gpus must have at least one number of a CUDA device; got none")
    places = [cuda_device("gpus", number) for number in gpus]
    return moved(index, places[0])


def index_cpu_to_all_gpus(index: _AnyIndex, co: object = None, ngpu: int = -1) -> _AnyIndex:
    """A copy of ``index`` on the first CUDA device, or on the CPU where torch sees none.

    Its answers are the same on either. ``ngpu`` > 0 asks for so many, and RuntimeError says that
    there are fewer.
    """
    wanted, there = require_int("ngpu", ngpu, -1), get_num_gpus()
    if wanted > there:
        raise RuntimeError(f"ngpu must be at most the {there} CUDA devices there are; got {wanted}")
    return moved(index, torch.device("cuda", 0) if there and wanted else torch.device("cpu"))


def index_gpu_to_cpu(index: _AnyIndex) -> _AnyIndex:
    """A copy of ``index`` on the CPU."""
    return moved(index, torch.device("cpu"))


def moved(index: _AnyIndex, device: torch.device) -> _AnyIndex:
    """An index of its own on ``device``; nothing is copied where ``index`` lies there already."""
    require_index(index)
    return index._moved(device)  # pyright: ignore[reportReturnType]


def cuda_device(name: str, number: object) -> torch.device:
    """The CUDA device ``number``; -1 = the current one."""
    at, there = require_int(name, number, -1), torch.cuda.device_count()
    if not there:
        raise RuntimeError(f"{name} must be a CUDA device, and torch sees none; got {at}")
    if at >= there:
        raise ValueError(f"{name} must be below the {there} CUDA devices there are; got {at}")
    return torch.device("cuda", torch.cuda.current_device() if at < 0 else at)


def _configured(config: GpuIndexFlatConfig | None) -> torch.device:
    return cuda_device("config.device", 0 if config is None else config.device)


def knn_gpu(
    res: object,
    xq: object,
    xb: object,
    k: int,
    D: Array | None = None,
    I: Array | None = None,  # noqa: E741
    metric: int = METRIC_L2,
    device: int = -1,
    use_cuvs: bool = False,
    vectorsMemoryLimit: int = 0,
    queriesMemoryLimit: int = 0,
) -> tuple:
    """``knn`` on a CUDA device; -1 = the current one. Memory limits have no effect."""
    place = cuda_device("device", device)
    shape = (len(xq), require_int("k", k, 0))  # pyright: ignore[reportArgumentType]
    require_out("D", D, shape, "float32")
    require_out("I", I, shape, "int64")
    found = knn(matrix("xq", xq).to(place), matrix("xb", xb).to(place), k, metric)
    home = xq.device if isinstance(xq, Tensor) else torch.device("cpu")
    return tuple(
        returned(values.to(home), xq, out) for values, out in zip(found, (D, I), strict=True)
    )
