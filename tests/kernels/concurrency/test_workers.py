"""Tasks in workers: their results, what they raise, and threads as they were before."""

import threading
import time
from functools import partial

import pytest
import torch

from flashmatch.kernels.concurrency.workers import in_workers


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def late(result: int, seconds: float) -> int:
    time.sleep(seconds)
    return result


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_results_are_in_the_order_of_the_tasks(workers: int, four_threads: None) -> None:
    tasks = [partial(late, i, 0.02 * (4 - i)) for i in range(5)]
    assert in_workers(tasks, workers) == [0, 1, 2, 3, 4]


def test_so_many_work_at_a_time(four_threads: None) -> None:
    """Two meet at the barrier, or nobody ever would."""
    barrier = threading.Barrier(2, timeout=20)
    names = in_workers([lambda: barrier.wait() and threading.current_thread().name] * 4, 2)
    assert len(names) == 4
    with pytest.raises(threading.BrokenBarrierError):
        in_workers([threading.Barrier(3, timeout=0.1).wait] * 3, 2)


@pytest.mark.parametrize(("tasks", "workers"), [(1, 4), (3, 1), (3, 0)])
def test_one_at_a_time_works_here(tasks: int, workers: int) -> None:
    here = threading.get_ident()
    assert in_workers([threading.get_ident] * tasks, workers) == [here] * tasks


def test_no_tasks() -> None:
    assert in_workers([], 2) == []


def test_what_a_task_raises_is_raised_and_the_rest_is_dropped(four_threads: None) -> None:
    begun = []

    def task(i: int) -> None:
        begun.append(i)
        if i == 0:
            raise ZeroDivisionError("of the first")
        time.sleep(0.05)

    with pytest.raises(ZeroDivisionError, match="of the first"):
        in_workers([partial(task, i) for i in range(100)], 2)
    assert len(begun) < 50
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("threads", [1, 2, 4, 5])
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_threads_and_leave_them_as_they_were(threads: int, workers: int) -> None:
    """For those that begin later, too; and nobody has none."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        counts = in_workers([torch.get_num_threads] * workers, workers)
        assert counts == [threads // min(threads, workers)] * workers
        assert torch.get_num_threads() == threads
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [threads]
    finally:
        torch.set_num_threads(before)


def test_gradients_are_not_recorded(four_threads: None) -> None:
    x = torch.ones(2, requires_grad=True)
    products = in_workers([lambda: x * 2] * 3, 2)
    assert not any(product.requires_grad for product in products)
    assert torch.is_grad_enabled()


def test_workers_write_to_what_was_made_in_inference_mode(four_threads: None) -> None:
    with torch.inference_mode():
        x = torch.zeros(3)
        made = in_workers([partial(x[i : i + 1].add_, i) for i in range(3)], 2)
        assert x.tolist() == [0, 1, 2]
        assert all(part.is_inference() for part in made)
    assert not any(part.is_inference() for part in in_workers([lambda: torch.ones(1)] * 2, 2))


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="denormals cannot be flushed here")
def test_workers_keep_denormals(four_threads: None) -> None:
    torch.set_flush_denormal(True)
    try:
        halves = in_workers([lambda: float(torch.full((9,), 2.0**-126).mul(0.5).max())] * 3, 2)
    finally:
        torch.set_flush_denormal(False)
    assert halves == [2.0**-127] * 3
