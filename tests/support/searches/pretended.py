"""A CUDA device that is not there: its tensors lie on the CPU and say that they are on cuda:0.

What a CPU run cannot show is refused here as torch refuses it on CUDA: operands on two devices, and
products of int8 that cuBLAS does not take. What CUDA does without a word is made visible: a copy to
the CPU that does not block is read before it has arrived, equal values come in another order, and
nothing is deterministic that torch does not call so. Streams, rounding, memory and speed are the
CPU's.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_ACROSS_DEVICES = ("aten::_to_copy", "aten::copy_")
_BY_INDEX = ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_")
"""Their indices may lie on the CPU."""


class OnDevice(Tensor):
    """A tensor that says it is on cuda:0, of numbers that are ``held`` on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        new = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
        )
        new.held = held
        return new

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with _Device():
            return func(*args, **(kwargs or {}))

    def tolist(self) -> object:
        return self.held.tolist()

    def __repr__(self, **_: object) -> str:
        return f"OnDevice({self.held})"


class _Device(TorchDispatchMode):
    """Computes what is asked of the device, and wraps it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func.namespace == "flashmatch":
            with self:
                return _python_body(func)(*args, **kwargs)
        with self:  # within an operator, torch has not yet taken apart what it composes of others
            if (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
                return parts
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        asked = kwargs.get("device")
        where = torch.device(asked) if asked is not None else _device_of(given)
        if func.name().partition(".")[0] not in _ACROSS_DEVICES:
            _require_one_device(func, args, given)
        _require_supported(func, args, given)
        if asked is not None:
            kwargs["device"] = CPU if where.type == "cuda" else where
        kwargs.pop("pin_memory", None)
        _require_arrival(func, given, where, kwargs)
        wrappers = {id(x.held): x for x in given if isinstance(x, OnDevice)}
        args, kwargs = tree_map(_held, (args, kwargs))
        out = _unordered(func, args, kwargs) if where.type == "cuda" else func(*args, **kwargs)

        def wrapped(x: object) -> object:
            if id(x) in wrappers:  # changed in place
                return wrappers[id(x)]
            return OnDevice(x) if isinstance(x, Tensor) and where.type == "cuda" else x

        return tree_map(wrapped, out)


class _Indexed(TorchFunctionMode):
    """Says which device "cuda" is before torch asks the driver."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        kwargs = {name: _indexed(x) for name, x in (kwargs or {}).items()}
        return func(*map(_indexed, args), **kwargs)


def _indexed(x: object) -> object:
    return CUDA if isinstance(x, (str, torch.device)) and str(x) == "cuda" else x


def _python_body(operator):
    from flashmatch.kernels.operators import topk_operator as operators

    return {
        "topk": operators.topk_operator._init_fn,
        "topk_backward": operators.gradient_operator._init_fn,
    }[operator._schema.name.partition("::")[2]]


def _held(x: object) -> object:
    return x.held if isinstance(x, OnDevice) else x


def _device_of(given: list[Tensor]) -> torch.device:
    """Where the result of an operation on these lies."""
    large = [x for x in given if x.ndim or len(given) == 1] or given
    return CUDA if any(isinstance(x, OnDevice) for x in large) else CPU


def _require_one_device(func, args: tuple, given: list[Tensor]) -> None:
    """A number, in a tensor without dimensions on the CPU, goes with any device."""
    if func.name().startswith(_BY_INDEX):
        target, indices = args[0], [x for x in args[1] if x is not None]
        given = [target, *(x for x in given if all(x is not index for index in indices))]
        given += [x for x in indices if isinstance(x, OnDevice)]
    if len({type(x) is OnDevice for x in given if x.ndim or isinstance(x, OnDevice)}) > 1:
        shapes = ", ".join(f"{tuple(x.shape)} on {x.device.type}" for x in given)
        raise RuntimeError(f"{func}: expected all tensors to be on the same device; got {shapes}")


def _require_supported(func, args: tuple, given: list[Tensor]) -> None:
    """As in ATen/native/cuda, Blas.cpp of torch 2.11, and what is not deterministic there."""
    if not any(isinstance(x, OnDevice) for x in given):
        return
    if func in (aten._int_mm.default, aten._int_mm.out):
        (rows, width), (_, columns) = args[0].shape, args[1].shape
        if rows <= 16 or width % 8 or columns % 8 or 0 in (width, columns):
            raise RuntimeError(f"_int_mm of ({rows}, {width}) and ({width}, {columns})")
    if func is aten.median.dim and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError("median CUDA with indices output has no deterministic implementation")


def _require_arrival(func, given: list[Tensor], where: torch.device, kwargs: dict) -> None:
    leaves = where.type == "cpu" and any(isinstance(x, OnDevice) for x in given)
    if func is aten._to_copy.default and leaves and kwargs.get("non_blocking"):
        raise RuntimeError("a copy to the CPU that does not block is read before it has arrived")


def _unordered(func, args: tuple, kwargs: dict) -> object:
    """The result, with equal values of ``topk`` and of a sort that is not stable the other way
    round."""
    by_value = {aten.topk.default: 2, aten.sort.default: 1, aten.argsort.default: 1}
    if func not in by_value or args[0].ndim == 0:
        return func(*args, **kwargs)
    at = by_value[func]
    dim = args[at] if len(args) > at else kwargs.get("dim", -1)
    found = func(args[0].flip(dim), *args[1:], **kwargs)
    last = args[0].shape[dim] - 1
    return last - found if isinstance(found, Tensor) else (found[0], last - found[1])


@contextmanager
def pretended_device() -> Iterator[None]:
    """Within it ``torch.cuda`` has a device, and tensors can be made there, and moved."""
    torch._C._ensureCUDADeviceGuardSet()  # without a driver, one that does nothing
    patch = pytest.MonkeyPatch()
    for name, value in {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *_, **__: True,
        "get_device_capability": lambda *_: (7, 5),  # which the Triton kernels do not run on
        "synchronize": lambda device=None: None,
        "Stream": lambda *_: nullcontext(),
        "stream": lambda stream: stream or nullcontext(),
    }.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(Tensor, "cuda", lambda self: self.to("cuda"))
    patch.setattr(Tensor, "pin_memory", lambda self: self.clone())
    try:
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) moves them
        with _Indexed(), _Device():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        patch.undo()
