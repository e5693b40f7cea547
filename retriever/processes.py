"""What several processes of torch.distributed tell each other; one process is a group of one."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather_ragged(rows: Tensor, counts: list[int]) -> Tensor:
    """Every process's ``rows`` (counts[rank], ...), in order of rank; all must call this."""
    device = rows.device
    rows = rows.to("cuda" if dist.get_backend() == "nccl" else "cpu")
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))  # all_gather wants equal shapes
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    cut = [part[:n] for part, n in zip(parts, counts, strict=True)]
    return torch.cat(cut).to(device)


def from_first_process(read: Callable[[], T]) -> T:
    """What ``read`` gives or raises in the first process, in every process; all must call this."""
    if world_size() == 1:
        return read()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = read()
        except Exception as error:
            outcome[1] = error  # the others would wait for ever
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
