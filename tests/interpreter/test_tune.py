"""The sweep leaves out what is wrong, writes down what is fastest, and plans follow it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from by_triton import codes_plan, search_codes, search_vectors, vectors_plan
from coded import coded
from problems import Problem, assert_exact, vectors
from torch import Tensor
from triton.errors import TritonError

from flashmatch.kernels import tune
from flashmatch.kernels.triton_backend import stages, tuned_tiles
from flashmatch.kernels.triton_backend.bank_search import LAYOUT
from flashmatch.kernels.triton_backend.selfcheck import tile_sweep
from flashmatch.kernels.triton_backend.selfcheck.tile_sweep import Case, Trial
from flashmatch.kernels.triton_backend.tiles import Tile, int8_tiles
from flashmatch.kernels.triton_backend.tuned_tiles import Row, Tuned

pytestmark = pytest.mark.usefixtures("poisoned_empty")
TILES = int8_tiles(64, 90)
TINY: dict[str, Any] = {"channels": (64,), "queries": (100,), "rows": 1}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path))
    tuned_tiles.of_device.cache_clear()
    yield
    tuned_tiles.of_device.cache_clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[Tile, float]], None]:
    """Lets a test say how long tiles take: a second, unless it says otherwise."""

    def install(seconds: dict[Tile, float]) -> None:
        def timed(scan: object, tiles: list[Tile], device: torch.device) -> list[float]:
            return [seconds.get(tile, 1.0) for tile in tiles]

        monkeypatch.setattr(tile_sweep, "_seconds", timed)

    return install


def spoil(patch: pytest.MonkeyPatch, tile: Tile, change: Callable[[Tensor], object]) -> None:
    scan = tile_sweep.passed_by

    def spoiled(*args) -> Tensor:
        passed = scan(*args)
        if args[-1] == tile:
            change(passed)
        return passed

    patch.setattr(tile_sweep, "passed_by", spoiled)


def operands() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(vectors("gaussian", n, 64, generator).float() for n in (100, 700))


def tiles_planned() -> list[Tile]:
    """The tiles of a search of prototypes as given, and of one of a bank."""
    q, p = operands()
    problem = Problem(q, [p], 3, "cosine", None, "raise", None)
    codes = coded([p], "cosine", LAYOUT)
    return [vectors_plan(problem).tile, codes_plan(problem, codes).tile]


def test_a_run_writes_the_fastest_and_plans_follow(clock, capsys) -> None:
    clock({TILES[1]: 0.5})
    assert tiles_planned() == [TILES[0]] * 2
    path = tune(**TINY)
    assert path == tuned_tiles.default_path(CPU)
    assert tuned_tiles.read(path) == Tuned((Row(64, 100, TILES[1]),))
    assert tiles_planned() == [TILES[1]] * 2
    assert capsys.readouterr() == ("", "")
    clock({TILES[0]: 0.5})
    assert tune(CPU, path=path, verbose=True, **TINY) == path
    assert tiles_planned() == [TILES[0]] * 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("64 channels, 100 queries: ")
    assert str(TILES[0]) in line


def test_the_clock_itself_and_another_path(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.json"
    tiny = {**TINY, "queries": (130, 17, 130)}
    assert tune(path=str(path), **tiny) == path
    table = tuned_tiles.read(path)
    assert table is not None
    assert [(row.channels, row.queries) for row in table.rows] == [(64, 17), (64, 130)]
    assert not tuned_tiles.default_path(CPU).exists()
    assert tuned_tiles.of_device(CPU) is None


def spoil_one(passed: Tensor) -> None:
    passed[70] += 1


@pytest.mark.parametrize("change", [spoil_one, lambda passed: passed.zero_()])
def test_tiles_must_have_as_many_entries(change, clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock({TILES[1]: 0.1})
    spoil(monkeypatch, TILES[1], change)
    with pytest.warns(
        UserWarning, match=r"block_p=256.* is left out for 64 channels and 100 queries: .*differ"
    ) as seen:
        tune(**TINY)
    assert sum(warning.category is UserWarning for warning in seen) == 1
    assert tiles_planned() == [TILES[0]] * 2


def test_what_is_compared_is_some_of_all_groups(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no group passes, or every one, a tile could be wrong."""
    clock({})
    seen = []
    spoil(monkeypatch, TILES[0], lambda passed: seen.append(passed[:100].double().mean()))
    tune(**TINY)
    assert seen
    assert all(0.5 < mean < 1024 / 16 / 4 for mean in seen)


def test_a_tile_that_fails_is_left_out(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(passed: Tensor) -> None:
        raise TritonError("out of resource: shared memory")

    clock({TILES[1]: 0.1})
    spoil(monkeypatch, TILES[1], fail)
    with pytest.warns(UserWarning, match="TritonError: out of resource: shared memory"):
        tune(**TINY)
    assert tiles_planned() == [TILES[0]] * 2


def test_without_the_plainest_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "append", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune(**TINY)
    assert not tuned_tiles.default_path(CPU).exists()


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ((1.0, 0.99, 1.0, None), 0),  # not by two hundredths
        ((1.0, 0.97, 0.96, None), 2),
        ((1.0, 2.0, 1.0, 0.5), 3),
        ((None, 2.0, 1.999, None), 1),  # of those that are right
    ],
)
def test_the_best_beats_the_first(seconds: tuple[float | None, ...], best: int) -> None:
    tiles = [Tile(128, 128, 64, 8, stages) for stages in (2, 3, 4, 5)]
    trials = tuple(Trial(tile, time) for tile, time in zip(tiles, seconds, strict=True))
    case = Case(64, 128, (128, 1024), trials)
    assert case.best == trials[best]
    assert case.row == Row(64, 128, tiles[best])


def test_a_search_with_a_tuned_tile_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned_tiles.write(tuned_tiles.default_path(CPU), (Row(64, 100, TILES[1]),))
    launched, append = [], stages.append

    def seen(*args, **kwargs) -> None:
        launched.append(args[0].plan.tile)
        append(*args, **kwargs)

    monkeypatch.setattr(stages, "append", seen)
    q, p = operands()
    q, p = q[:17], p[:300]
    problem = Problem(q, [p], 3, "l2", torch.arange(300) % 30 == 0, "raise", None)
    assert_exact(search_vectors(problem), problem)
    assert_exact(search_codes(problem)[:2], problem)
    assert len(launched) >= 2
    assert set(launched) == {TILES[1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "meta"}, r"device must be .*; got 'meta'"),
        ({"device": "cuda"}, "device must be .*; got 'cuda'"),
        ({"channels": ()}, r"channels must name at least one size; got \(\)"),
        ({"channels": (64, 0)}, "channels must lie between 1 and .*; got 0"),
        ({"channels": (2**30,)}, "channels must lie between 1 and .*; got 1073741824"),
        ({"queries": (128, 16)}, "queries must lie between 17 and .*; got 16"),
        ({"rows": 0}, "rows must lie between 1 and .*; got 0"),
        ({"path": "."}, "path must be a file to write; got the folder '.'"),
    ],
)
def test_bad_input_is_refused_first(
    changes: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(tile_sweep, "sweep", lambda *_: pytest.fail("it was run"))
    with pytest.raises(ValueError, match=message):
        tune(**{"path": tmp_path / "new" / "table.json", **TINY, **changes})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sizes", [{"queries": (128.0,)}, {"channels": (None,)}, {"rows": True}, {"queries": 128}]
)
def test_sizes_are_ints(sizes: dict) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(sizes))} must be .*int"):
        tune(**TINY | sizes)
