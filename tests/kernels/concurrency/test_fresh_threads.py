"""Threads for one call: what is left of them when the call has ended, and when a fork begins."""

import sys
import threading

import pytest
from programs import output_of

from flashmatch.kernels.concurrency.fresh_threads import fresh_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and counts threads")

SEEN_OFF = """
import os
threads = lambda: len(os.listdir("/proc/self/task"))
at_fork, after_calls = [], []
os.register_at_fork(before=lambda: at_fork.append(threads()))  # the last of those before a fork
from flashmatch.kernels.concurrency.fit_thread import in_fit_thread
from flashmatch.kernels.concurrency.workers import in_workers
import torch
torch.set_num_threads(2)
alone = threads()
for _ in range(200):
    torch.set_flush_denormal(True)
    in_fit_thread((), in_workers, [lambda: torch.ones(9, 9) @ torch.ones(9, 9)] * 2, 2)
    torch.set_flush_denormal(False)
    after_calls.append(threads())
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
print(max(at_fork) - alone, max(after_calls) > alone)
"""

SEARCHED = """
import os
os.getloadavg = lambda: (99.0, 99.0, 99.0)  # so that searches are shared among workers
import torch
from flashmatch import PrototypeBank
torch.set_num_threads(2)
p = torch.randn(60_000, 32, generator=torch.Generator().manual_seed(0))
bank = PrototypeBank(p, screen="float")
for _ in range(20):
    expected = bank.topk(p[:50], 5)
    child = os.fork()
    if child == 0:
        os._exit(not torch.equal(bank.topk(p[:50], 5).indices, expected.indices))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("done")
"""


def test_a_fork_waits_for_threads_that_leave() -> None:
    left, were_there = output_of("-c", SEEN_OFF, timeout=120).split()
    assert (int(left) <= 1, were_there) == (True, "True")  # 1: a thread of torch's own


def test_children_of_a_search_that_workers_shared_search_too() -> None:
    assert output_of("-c", SEARCHED, timeout=120).split() == ["done"]


def test_tasks_that_have_not_begun_are_dropped() -> None:
    begun, go_on = [], threading.Event()

    def call() -> None:
        with fresh_threads(1, lambda: begun.append("begun")) as pool:
            pool.submit(go_on.wait, 20)
            pool.submit(begun.append, "task")
            threading.Timer(0.1, go_on.set).start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call()
    assert begun == ["begun"]
