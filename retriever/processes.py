"""What several processes of torch.distributed tell each other; one process is a group of one."""

import torch
import torch.distributed as dist
from torch import Tensor


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
