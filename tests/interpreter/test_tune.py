"""The sweep leaves out what is wrong, writes down what is fastest, and plans follow it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from by_triton import codes_plan, search_codes, search_vectors, vectors_plan
from coded import coded
from problems import Problem, assert_exact, vectors
from torch import Tensor
from triton.errors import TritonError

from flashmatch.kernels import tune
from flashmatch.kernels.proofs.fp16 import prepared_delta
from flashmatch.kernels.triton_backend import float_search, int8_search, launches, tuned_tiles
from flashmatch.kernels.triton_backend.selfcheck import tile_sweep
from flashmatch.kernels.triton_backend.selfcheck.tile_sweep import Case, Trial
from flashmatch.kernels.triton_backend.tiles import Tile, fp16_tiles, int8_tiles
from flashmatch.kernels.triton_backend.tuned_tiles import Row, Tuned

pytestmark = pytest.mark.usefixtures("poisoned_empty")
FP16, INT8 = fp16_tiles(90), int8_tiles(64, 90)
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


def spoil(
    patch: pytest.MonkeyPatch, module: ModuleType, tile: Tile, change: Callable[[Tensor], object]
) -> None:
    name = "scan_chunk" if module is float_search else "passed_by"
    scan = getattr(module, name)

    def spoiled(*args) -> Tensor:
        bounds = scan(*args)
        if tile in (args[0].plan.tile, args[-1]):
            change(bounds)
        return bounds

    patch.setattr(module, name, spoiled)


def operands() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(vectors("gaussian", n, 64, generator).float() for n in (100, 700))


def planned() -> list[Tile]:
    """The tiles of a search of prototypes as given, and of one of codes."""
    q, p = operands()
    problem = Problem(q, [p], 3, "cosine", None, "raise", None)
    codes = coded([p], "cosine", int8_search.LAYOUT)
    return [vectors_plan(problem).tile, codes_plan(problem, codes).tile]


def test_a_run_writes_the_fastest_and_plans_follow(clock, capsys) -> None:
    clock({FP16[3]: 0.5, INT8[1]: 0.5})
    untuned = planned()
    path = tune(**TINY)
    assert path == tuned_tiles.default_path(CPU)
    rows = (Row("fp16", 64, 100, FP16[3]), Row("int8", 64, 100, INT8[1]))
    assert tuned_tiles.read(path) == Tuned(rows)
    assert planned() == [FP16[3], INT8[1]] != untuned
    assert capsys.readouterr() == ("", "")
    clock({FP16[1]: 0.5})
    assert tune(CPU, path=path, verbose=True, **TINY) == path
    assert planned() == [FP16[1], untuned[1]]
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "fp16 64 channels",
        "int8 64 channels",
    ]


def test_the_clock_itself_and_another_path(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.json"
    tiny = {**TINY, "queries": (130, 17, 130)}
    assert tune(path=str(path), **tiny) == path
    table = tuned_tiles.read(path)
    assert table is not None
    assert [(row.screen, row.queries) for row in table.rows] == [
        ("fp16", 17),
        ("fp16", 130),
        ("int8", 17),
        ("int8", 130),
    ]
    assert not tuned_tiles.default_path(CPU).exists()
    assert tuned_tiles.of_device(CPU) is None


def spoil_one(passed: Tensor) -> None:
    passed[70] += 1


@pytest.mark.parametrize("change", [spoil_one, lambda bounds: bounds.fill_(torch.nan)])
def test_codes_must_have_as_many_entries(change, clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock({INT8[1]: 0.1})
    spoil(monkeypatch, tile_sweep, INT8[1], change)
    with pytest.warns(UserWarning, match=r"block_p=256.* is left out .* int8 .*differ") as seen:
        tune(**TINY)
    assert sum(warning.category is UserWarning for warning in seen) == 1
    assert planned()[1] == INT8[0]


@pytest.mark.parametrize(("slack", "left_out"), [(1.9, False), (2.1, True), (-2.1, True)])
def test_fp16_bounds_may_differ_by_the_slack(
    slack: float, left_out: bool, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock({FP16[3]: 0.1, FP16[2]: 0.5})
    off = slack * prepared_delta(64)
    spoil(monkeypatch, float_search, FP16[3], lambda bounds: bounds[99, 63].add_(off))
    if left_out:
        with pytest.warns(UserWarning, match="fp16 .*differ"):
            tune(**TINY)
    else:
        tune(**TINY)
    assert planned()[0] == FP16[2 if left_out else 3]


def test_a_tile_that_fails_is_left_out(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(bounds: Tensor) -> None:
        raise TritonError("out of resource: shared memory")

    clock({FP16[1]: 0.1, FP16[2]: 0.5})
    spoil(monkeypatch, float_search, FP16[1], fail)
    with pytest.warns(UserWarning, match="TritonError: out of resource: shared memory"):
        tune(**TINY)
    assert planned()[0] == FP16[2]


def test_without_the_plainest_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_search, "append", lambda *_: 1 / 0)
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
    trials = tuple(Trial(tile, time) for tile, time in zip(FP16, seconds, strict=True))
    case = Case("fp16", 64, 128, (128, 1024), trials)
    assert case.best == trials[best]
    assert case.row == Row("fp16", 64, 128, FP16[best])


@pytest.mark.parametrize("i", [2, 3])
def test_a_search_with_a_tuned_persistent_tile_is_exact(
    i: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (Row("fp16", 64, 100, FP16[i]), Row("int8", 64, 100, INT8[1]))
    tuned_tiles.write(tuned_tiles.default_path(CPU), rows)
    launched, scan = [], launches.scan

    def seen(*args) -> None:
        launched.append(args[0].plan.tile)
        scan(*args)

    monkeypatch.setattr(launches, "scan", seen)
    q, p = operands()
    q, p = q[:17], p[:300]
    problem = Problem(q, [p], 3, "l2", None, "raise", None)
    assert_exact(search_vectors(problem), problem)
    assert_exact(search_codes(problem)[:2], problem)
    assert launched == [FP16[i]]
    assert codes_plan(problem, coded([p], "l2", int8_search.LAYOUT)).tile == INT8[1]
    assert FP16[i].persistent


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
