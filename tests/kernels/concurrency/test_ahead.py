"""Copies that run beside searches, on streams that are pretended: any order that they may go in.

A stream is a list of what it was asked for. What was asked runs behind the test, stream by stream
at random, as far as events allow; a reader must find the piece that it was given.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flashmatch.kernels.concurrency.ahead import brought_ahead

CPU = torch.device("cpu")
Step = Callable[[], bool]
"""Does what was asked, if it may; tells whether it did."""


class Away(Tensor):
    """Says that it lies elsewhere."""

    device = torch.device("meta")  # pyright: ignore


class PretendedStream:
    def __init__(self) -> None:
        self.asked: list[Step] = []
        self.done = 0

    def ask(self, work: Callable[[], object]) -> None:
        self.asked.append(lambda: (work(), True)[1])

    def record_event(self) -> Callable[[], bool]:
        position = len(self.asked)
        return lambda: self.done >= position

    def wait_event(self, event: Callable[[], bool]) -> None:
        self.asked.append(event)

    def wait_stream(self, other: "PretendedStream") -> None:
        self.wait_event(other.record_event())


class PretendedStreams(TorchDispatchMode):
    """As ``torch.cuda``; in it, copies are asked of the current stream, and not made at once."""

    def __init__(self, waits: bool = True) -> None:
        super().__init__()
        self.searching, self.copying = PretendedStream(), PretendedStream()
        self.current = self.searching
        if not waits:  # as if nobody had thought of it
            self.copying.wait_event = lambda event: None  # pyright: ignore

    def current_stream(self, device: torch.device) -> PretendedStream:
        return self.searching

    def Stream(self, device: torch.device) -> PretendedStream:
        return self.copying

    @contextmanager
    def stream(self, stream: PretendedStream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is not torch.ops.aten.copy_:
            return func(*args, **(kwargs or {}))
        self.current.ask(lambda: func(*args, **(kwargs or {})))
        return args[0]

    def run(self, seed: int) -> None:
        """All that was asked, in one of the orders that it may go in."""
        choose, streams = random.Random(seed), [self.searching, self.copying]
        while any(stream.done < len(stream.asked) for stream in streams):
            choose.shuffle(streams)
            moved = next((s for s in streams if s.done < len(s.asked) and s.asked[s.done]()), None)
            assert moved, "each stream waits for the other"
            moved.done += 1


def searched(pieces: list[Tensor], seed: int, waits: bool = True) -> list[bool]:
    """Whether each reader found its piece, of some readers a piece."""
    streams, found = PretendedStreams(waits), []
    expected = [piece.as_subclass(Tensor).clone() for piece in pieces]
    with streams:
        for at, rows in enumerate(brought_ahead(pieces, CPU, streams)):
            assert rows.shape == pieces[at].shape
            assert rows.dtype == pieces[at].dtype
            for _ in range(3):
                streams.searching.ask(lambda rows=rows, at=at: found.append((at, rows.clone())))
    streams.run(seed)
    assert [at for at, _ in found] == [at for at in range(len(pieces)) for _ in range(3)]
    return [torch.equal(rows, expected[at]) for at, rows in found]


def some_pieces(seed: int) -> list[Tensor]:
    """Of several sizes and dtypes, some of which are there already."""
    choose, dtypes = random.Random(seed), [torch.float32, torch.float64, torch.float16]
    pieces = []
    for number in range(choose.randint(1, 7)):
        rows = torch.full((choose.randint(1, 5), 4), float(number), dtype=choose.choice(dtypes))
        pieces.append(rows if choose.random() < 0.2 else rows.as_subclass(Away))
    return pieces


def test_every_piece_is_read_as_it_is() -> None:
    for seed in range(200):
        assert all(searched(some_pieces(seed), seed)), seed


def test_a_buffer_that_is_written_too_early_is_noticed() -> None:
    pieces = [torch.full((2, 4), float(n)).as_subclass(Away) for n in range(6)]
    assert not all(all(searched(pieces, seed, waits=False)) for seed in range(20))
