"""The searches of one commit, in a process of their own: both ends of the pipe.

Requests and answers are lines of JSON. ``{"shape": ..., "search": ...}`` prepares a search; the
answer has the seconds of a call and a digest of its results. ``{"calls": n}`` makes a call that
nobody times, then n that are. Of flashmatch the process uses the public names in ``providers.ours``
alone, and of bench what uses no others: a commit may have folders of its own.
"""

import gc
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from measuring.links import ROOT
from measuring.shapes import Shape, make, parse
from measuring.timing import seconds_of
from providers.ours import OURS

BENCH = ROOT / "bench"


class CommitProcess:
    """The end that asks. ``tree`` is what the process finds flashmatch in."""

    def __init__(self, name: str, tree: Path, device: torch.device) -> None:
        self._name = name
        paths = [str(BENCH), str(tree), os.environ.get("PYTHONPATH")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "studies.commit_process", device.type],
            cwd=BENCH,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "CommitProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def prepare(self, shape: Shape, search: str) -> tuple[float, str]:
        """The seconds of a call, and a digest of its results."""
        answer = self._ask(shape=str(shape), search=search)
        return answer["seconds"], answer["digest"]

    def seconds(self, calls: int) -> float:
        """The mean of ``calls`` calls in a row."""
        return self._ask(calls=calls)["seconds"]

    def _ask(self, **request: object) -> dict:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise RuntimeError(f"{self._name}: {answer['error']}")
        return answer


class Searches:
    """The end that answers: the data of one shape, and one search."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._shape: Shape | None = None
        self._data: tuple[Tensor, Tensor] | None = None
        self._call: Callable[[], object] | None = None

    def answer(self, request: dict) -> dict:
        if "calls" not in request:
            return self._prepare(parse(request["shape"]), request["search"])
        assert self._call is not None
        self._call()  # the caches were the other process's
        return {"seconds": seconds_of(self._call, self._device, request["calls"])}

    def _prepare(self, shape: Shape, name: str) -> dict:
        self._call = None
        if shape != self._shape:
            self._data = None  # before the next are made
            self._shape, self._data = shape, make(shape, self._device)
        assert self._data is not None
        queries, prototypes = self._data
        [provider] = [provider for provider in OURS if provider.name == name]
        search = provider.prepare(prototypes, shape)
        found = digest(search(queries))
        self._call = call = lambda: search(queries)
        return {"seconds": seconds_of(call, self._device), "digest": found}


def digest(parts: Iterable[Tensor]) -> str:
    """Of every bit."""
    arrays = (part.contiguous().cpu().numpy() for part in parts)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def main() -> None:
    searches = Searches(torch.device(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    gc.disable()
    for line in sys.stdin:
        try:
            answer = searches.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
