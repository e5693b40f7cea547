"""Many kernels compiled side by side, in processes: what crashes or hangs one is one failure."""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from .recording import Job, compiled, nvidia

OK = "ok"
NOT_BEGUN = "not begun: out of time"
PATIENCE_SECONDS = 120.0  # a kernel that takes longer is given up


@dataclass(frozen=True)
class Compiled:
    """What became of a job.

    ``seconds`` are a core's, so that other work beside it does not lengthen them; wall-clock where
    the job was given up. ``status`` is "ok" or what failed.
    """

    name: str
    seconds: float
    status: str


class _Worker:
    """A process that compiles one job after another."""

    def __init__(self, arch: int) -> None:
        context = get_context("spawn")  # a fork would take along what threads of torch held
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_compile_here, args=(arch, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.job: Job | None = None
        self._begun = 0.0

    def begin(self, job: Job) -> None:
        self.job, self._begun = job, time.monotonic()
        self.pipe.send(job)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def end(self) -> int | None:
        """At once; the exit code."""
        self._process.join(timeout=0.1)
        self._process.kill()
        self._process.join()
        self.pipe.close()
        return self._process.exitcode


@dataclass
class _Workers:
    """Those with a job, and those without."""

    arch: int
    busy: list[_Worker] = field(default_factory=list)
    free: list[_Worker] = field(default_factory=list)

    def begin(self, job: Job) -> None:
        worker = self.free.pop() if self.free else _Worker(self.arch)
        self.busy.append(worker)
        worker.begin(job)

    def wait(self) -> Iterator[Compiled]:
        """What is done when some worker has an answer, has died, or has used up the patience."""
        pipes = {worker.pipe: worker for worker in self.busy}
        for pipe in wait(list(pipes), timeout=1.0):
            assert isinstance(pipe, Connection)
            yield self._answer(pipes[pipe])
        for worker in list(self.busy):
            if worker.seconds > PATIENCE_SECONDS:
                yield self._lost(worker, f"given up after {PATIENCE_SECONDS:.0f} s")

    def _answer(self, worker: _Worker) -> Compiled:
        try:
            seconds, status = worker.pipe.recv()
        except (EOFError, ConnectionError):
            return self._lost(worker, "the compiler died")
        self.busy.remove(worker)
        self.free.append(worker)
        assert worker.job is not None
        return Compiled(worker.job.name, seconds, status)

    def _lost(self, worker: _Worker, why: str) -> Compiled:
        self.busy.remove(worker)
        seconds, code = worker.seconds, worker.end()
        assert worker.job is not None
        return Compiled(worker.job.name, seconds, f"{why} (exit code {code})")

    def end(self) -> None:
        for worker in (*self.busy, *self.free):
            worker.end()


def compile_all(jobs: Iterable[Job], arch: int, processes: int, until: float) -> Iterator[Compiled]:
    """Each job's outcome as it is done. None is begun at ``until``, a time.monotonic(), or later.

    Whoever takes no more outcomes ends the processes with the iterator.
    """
    waiting, workers = deque(jobs), _Workers(arch)
    try:
        while waiting or workers.busy:
            while waiting and len(workers.busy) < processes and time.monotonic() < until:
                workers.begin(waiting.popleft())
            if not workers.busy:
                break
            yield from workers.wait()
    finally:
        workers.end()
    yield from (Compiled(job.name, 0.0, NOT_BEGUN) for job in waiting)


def _compile_here(arch: int, jobs: Connection) -> None:
    """A worker's whole life: a job comes, its seconds and status go."""
    from triton.runtime.cache import triton_key

    triton_key()  # half a second of reading Triton itself, which is no job's own
    while True:
        try:
            job = jobs.recv()
        except EOFError:
            return
        begun = _core_seconds()
        try:
            _prepare_launcher(compiled(job, nvidia(arch)))
            status = OK
        except Exception as error:
            first, *_ = str(error).splitlines() or [""]
            status = f"{type(error).__name__}: {first[:200]}"
        jobs.send((_core_seconds() - begun, status))


def _core_seconds() -> float:
    """Of this process, and of compilers that it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _prepare_launcher(kernel: Any) -> None:
    """What Triton 3.6 compiles beside a kernel, in C, where there is a driver to link with."""
    from triton.backends.nvidia import driver

    if hasattr(driver, "make_launcher") and _has_cuda(driver):
        driver.CudaLauncher(kernel.src, kernel.metadata)


def _has_cuda(driver: Any) -> bool:
    try:
        return bool(driver.libcuda_dirs())
    except AssertionError:
        return False
