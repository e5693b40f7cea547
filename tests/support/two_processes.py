"""A function in two processes that torch.distributed joins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def in_two_processes(run: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``run(rank)`` returns in each, by way of ``folder``."""
    torch.multiprocessing.start_processes(_meet, (run, folder), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _meet(rank: int, run: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.save(run(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
