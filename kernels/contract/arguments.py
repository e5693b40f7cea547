"""What the door refuses: argument, expectation, value. Nothing is computed before these pass."""

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .order import MAX_ROWS

ID_LIMIT = 2**63
"""Above every id."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def require_int(name: str, value: object, least: int | None = None) -> int:
    """A Python int, from whatever says by ``__index__`` that it is one; a bool is none."""
    number = _index(value)
    if number is None:
        raise TypeError(f"{name} must be an int; got {type(value).__name__}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}; got {number}")
    return number


def require_bool(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool; got {type(value).__name__}")
    return bool(value)


def require_limit(value: object) -> int | None:
    return None if value is None else require_int("limit", value, least=1)


def require_threshold(value: object, queries: int, device: torch.device) -> Tensor:
    """(Q,) fp32 on ``device``: the lowest score of fp32 that is no less than the threshold."""
    if isinstance(value, Tensor):
        if value.dtype not in DTYPES:
            raise TypeError(f"threshold must be a number or floating; got {value.dtype}")
        require_dense("threshold", value)
        if value.shape not in ((), (queries,)):
            raise ValueError(
                f"threshold must be a number or have shape ({queries},); got {tuple(value.shape)}"
            )
        wanted = value.detach().to(device).expand(queries)
    elif isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        wanted = torch.full((queries,), float(value), dtype=torch.float64, device=device)
    else:
        raise TypeError(f"threshold must be a number or a torch.Tensor; got {type(value).__name__}")
    if bool(wanted.isnan().any()):
        raise ValueError("threshold must not be NaN; got NaN")
    rounded = wanted.float()
    above = rounded.nextafter(rounded.new_tensor(torch.inf))
    return torch.where(rounded.to(wanted.dtype) < wanted, above, rounded)


def _index(value: object) -> int | None:
    if isinstance(value, bool) or (isinstance(value, Tensor) and _is_no_number(value)):
        return None
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def _is_no_number(value: Tensor) -> bool:
    """torch takes a vector of one element, and True, for an index."""
    return value.ndim > 0 or value.dtype == torch.bool


def require_device(name: str, value: torch.device | str | int) -> torch.device:
    """One that torch can put numbers on, with its index where it has one."""
    if isinstance(value, bool) or not isinstance(value, (torch.device, str, int)):
        raise TypeError(
            f"{name} must be a torch.device or a device's name; got {type(value).__name__}"
        )
    reason = "it holds no data"
    try:
        found = torch.empty(0, device=value).device
        if found.type != "meta":
            return found
    except Exception as error:  # every backend has its own
        reason = str(error).partition("\n")[0]
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    raise ValueError(
        f"{name} must be a device that torch has here, such as {', '.join(map(repr, there))}; "
        f"got {str(value)!r}: {reason}"
    )


def require_dense(name: str, value: Tensor, meta_too: bool = False) -> None:
    """Numbers that can be read: strided, on a device that has them, in memory that is there."""
    if value.is_nested:
        what = "a nested tensor"
    elif value.layout != torch.strided:
        what = str(value.layout)
    elif value.is_meta and not meta_too:
        what = "a tensor on meta"
    elif isinstance(value, (nn.UninitializedParameter, nn.UninitializedBuffer)):
        what = type(value).__name__
    elif _is_freed(value):
        what = "a tensor whose storage was resized"
    else:
        return
    raise TypeError(f"{name} must be a dense tensor on a device with data; got {what}")


def _is_freed(value: Tensor) -> bool:
    """Whether the storage is smaller than the tensor, which torch reads all the same."""
    has_storage = type(value) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()
    if not has_storage or torch._C._are_functorch_transforms_active() or value.numel() == 0:
        return False
    if value.is_contiguous():
        count = value.numel()
    else:
        spans = ((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
        count = sum(spans) + 1
    end = value.storage_offset() + count
    return bool(value.untyped_storage().nbytes() < end * value.element_size())


def require_vectors(name: str, value: object, meta_too: bool = False) -> None:
    """A 2-D dense floating tensor of at least one channel."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    require_dense(name, value, meta_too)
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64; got {value.dtype}")
    if value.ndim != 2 or value.shape[1] < 1:
        raise ValueError(
            f"{name} must have shape (rows, channels) with channels >= 1; got {tuple(value.shape)}"
        )


def require_prototypes(value: object, meta_too: bool = False) -> list[Tensor]:
    """One tensor or a non-empty sequence of tensors of equal width, as a list."""
    if isinstance(value, Tensor):
        require_vectors("prototypes", value, meta_too)
        return [value]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        raise TypeError(
            "prototypes must be a torch.Tensor or a non-empty sequence of them; "
            f"got {type(value).__name__}{' of length 0' if isinstance(value, Sequence) else ''}"
        )
    for i, chunk in enumerate(value):
        require_vectors(f"prototypes[{i}]", chunk, meta_too)
        if chunk.shape[1] != value[0].shape[1]:
            raise ValueError(
                f"prototypes[{i}] must have {value[0].shape[1]} channels like prototypes[0]; "
                f"got {chunk.shape[1]}"
            )
    return list(value)


def require_same_channels(queries: Tensor, prototypes: Sequence[Tensor]) -> None:
    if queries.shape[1] != prototypes[0].shape[1]:
        raise ValueError(
            f"queries and prototypes must have equally many channels; "
            f"got {queries.shape[1]} and {prototypes[0].shape[1]}"
        )


def require_bank_channels(name: str, value: Tensor, channels: int) -> None:
    if value.shape[1] != channels:
        raise ValueError(
            f"{name} must have the bank's {channels} channels; got {tuple(value.shape)}"
        )


def require_k(k: object, rows: int) -> int:
    k = require_int("k", k)
    if not 0 <= k <= rows:
        raise ValueError(f"k must be between 0 and {rows}, the rows of prototypes; got {k}")
    if rows > MAX_ROWS:
        raise ValueError(f"prototypes must have at most {MAX_ROWS} rows in all; got {rows}")
    return k


def require_mask(mask: object, queries: int, rows: int, device: torch.device) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        what = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a torch.bool tensor; got {what}")
    require_dense("mask", mask)
    if mask.shape not in ((rows,), (queries, rows)):
        raise ValueError(
            f"mask must have shape ({rows},) or ({queries}, {rows}); got {tuple(mask.shape)}"
        )
    if mask.device != device:
        raise ValueError(f"mask must be on the queries' device, {device}; got {mask.device}")


def require_positions(name: str, value: object, rows: int) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a torch.int64 tensor; got {what}")
    require_dense(name, value)
    if value.ndim != 1:
        raise ValueError(f"{name} must have 1 dimension; got shape {tuple(value.shape)}")
    if len(value) and not 0 <= int(value.min()) <= int(value.max()) < rows:
        worst = int(value.max()) if int(value.min()) >= 0 else int(value.min())
        raise ValueError(f"{name} must be between 0 and {rows - 1}; got {worst}")
