"""Searches that must not wait for the device: watched, captured into a CUDA graph, replayed."""

from collections.abc import Callable

import torch
from problems import Problem, assert_exact
from torch import Tensor


def assert_never_waits(search: Callable[[], tuple[Tensor, Tensor]], problem: Problem) -> None:
    """The search is right, and synchronises with nothing once it is compiled."""
    search()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = search()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_exact(found, problem)


def assert_replays(
    search: Callable[[], tuple[Tensor, Tensor]], queries: Tensor, problem: Problem
) -> None:
    """A captured search, which reads ``queries``, is right for what they hold at each replay."""
    search()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = search()
    for _ in range(3):
        queries.copy_(queries.flip(0))
        problem = problem.replace(queries=problem.queries.flip(0))
        graph.replay()
        assert_exact(captured, problem)
