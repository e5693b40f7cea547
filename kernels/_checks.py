"""What the door refuses: argument, expectation, value. Nothing is computed before these pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._order import MAX_ROWS

METRICS = ("cosine", "dot", "l2")
NONFINITE = ("raise", "exclude")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def require_vectors(name: str, value: object) -> None:
    """A 2-D floating tensor of at least one channel."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64; got {value.dtype}")
    if value.ndim != 2 or value.shape[1] < 1:
        raise ValueError(
            f"{name} must have shape (rows, channels) with channels >= 1; got {tuple(value.shape)}"
        )


def require_prototypes(value: object) -> list[Tensor]:
    """One tensor or a non-empty sequence of tensors of equal width, as a list."""
    if isinstance(value, Tensor):
        require_vectors("prototypes", value)
        return [value]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        raise TypeError(
            "prototypes must be a torch.Tensor or a non-empty sequence of them; "
            f"got {type(value).__name__}{' of length 0' if isinstance(value, Sequence) else ''}"
        )
    for i, chunk in enumerate(value):
        require_vectors(f"prototypes[{i}]", chunk)
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


def require_k(k: object, rows: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int; got {type(k).__name__}")
    if not 0 <= k <= rows:
        raise ValueError(f"k must be between 0 and the number of prototypes, {rows}; got {k}")
    if rows > MAX_ROWS:
        raise ValueError(f"prototypes must have at most {MAX_ROWS} rows in all; got {rows}")
    return k


def require_mask(mask: object, queries: int, rows: int, device: torch.device) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        what = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a torch.bool tensor; got {what}")
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
    if value.ndim != 1:
        raise ValueError(f"{name} must have 1 dimension; got shape {tuple(value.shape)}")
    if len(value) and not 0 <= int(value.min()) <= int(value.max()) < rows:
        worst = int(value.max()) if int(value.min()) >= 0 else int(value.min())
        raise ValueError(f"{name} must be between 0 and {rows - 1}; got {worst}")


def require_positive(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int or None; got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}")


def refuse_nonfinite(name: str, bad_rows: Tensor, first_row: int = 0) -> None:
    """Raise if the bool vector ``bad_rows`` marks any row (reads it back from its device)."""
    rows = bad_rows.nonzero()[:, 0]
    if len(rows):
        shown = ", ".join(str(int(r) + first_row) for r in rows[:5])
        raise ValueError(
            f'{name} must be finite (or pass nonfinite="exclude"); '
            f"got NaN, inf or a norm beyond fp64 in row{'s' * (len(rows) > 1)} {shown}"
            f"{', ...' * (len(rows) > 5)}"
        )
