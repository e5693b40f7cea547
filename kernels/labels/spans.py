"""Runs of numbers, one behind another: what prefix sums of their lengths are for."""

import torch
from torch import Tensor


def spread(firsts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of all runs, and whose each is, (n,) int64 both.

    Run i has the ``counts[i]`` numbers from ``firsts[i]`` on, (r,) int64 both.
    """
    owners = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    shift = firsts - begins(counts)
    return torch.arange(len(owners), device=counts.device) + shift[owners], owners


def begins(counts: Tensor) -> Tensor:
    """Where each run begins among all, (r,) int64."""
    return counts.cumsum(0) - counts
