"""What is launched, as Triton's own JIT specialises it; and one such specialisation, compiled.

The JIT is asked by a driver that has a target but no device. A hook of its own tells of what it is
about to compile, and keeps it from compiling and launching.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver


@dataclass(frozen=True)
class Job:
    """One specialisation of a kernel. Equal ones are one kernel to the JIT."""

    module: str
    kernel: str
    specialisation: str  # what JITFunction.preload compiles, in JSON

    @property
    def name(self) -> str:
        """The kernel, what its pointers point to, and its constexprs."""
        types = [t for t in self.signature.values() if t.startswith(("*", "tensordesc"))]
        return " ".join([self.kernel, ",".join(types), *map(str, self.constants.values())])

    @cached_property
    def _read(self) -> dict[str, Any]:
        return json.loads(self.specialisation)

    @property
    def signature(self) -> dict[str, str]:
        """The types of all arguments; "constexpr" is one."""
        return self._read["signature"]

    @property
    def constants(self) -> dict[str, Any]:
        """Constexprs, and arguments that are None, or 1 where the JIT looks."""
        return self._by_name("constant")

    @property
    def divisible(self) -> frozenset[str]:
        """Arguments that the JIT found to be multiples of 16."""
        attributes = self._by_name("attrs")
        return frozenset(name for name, found in attributes.items() if found)

    def _by_name(self, kind: str) -> dict[str, Any]:
        names = list(self.signature)
        keys, values = self._read[f"{kind}_keys"], self._read[f"{kind}_vals"]
        return {names[key[0]]: value for key, value in zip(keys, values, strict=True)}


class _NoDevice:
    """All that the JIT asks of a driver before it launches."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int | str:
        """The JIT keeps what it knows of a target by device."""
        return self._target.arch

    def get_current_stream(self, device: object = None) -> int:
        return 0


def nvidia(arch: int) -> GPUTarget:
    return GPUTarget("cuda", arch, 32)


def recorded(search: Callable[[], object], target: GPUTarget) -> list[Job]:
    """What ``search`` launches, each specialisation once, in order. Nothing is executed.

    The tensors may lie anywhere, on the meta device, too: what they hold is not read.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("kernels are interpreted here; unset TRITON_INTERPRET to compile them")
    found: dict[Job, None] = {}

    def note(*, fn: Any, compile: Any, **_: object) -> bool:
        found[Job(fn.module, fn.name, compile["specialization_data"])] = None
        return True  # it is not compiled

    with _asked_by(_NoDevice(target)):
        before = knobs.runtime.jit_cache_hook
        knobs.runtime.jit_cache_hook = note
        try:
            search()
        finally:
            knobs.runtime.jit_cache_hook = before
    return list(found)


def compiled(job: Job, target: GPUTarget) -> Any:
    """Triton's CompiledKernel, which lies in its cache from now on."""
    kernel = getattr(import_module(job.module), job.kernel)
    with _asked_by(_NoDevice(target)):
        return kernel.preload(job.specialisation)


@contextmanager
def _asked_by(asking: _NoDevice) -> Iterator[None]:
    before = driver._active
    driver.set_active(asking)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        driver._active = before
