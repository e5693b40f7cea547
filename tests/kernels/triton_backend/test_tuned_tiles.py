"""The table of tuned tiles: where it lies, how it is read, and which tile a plan takes from it."""

import errno
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashmatch.kernels import tune
from flashmatch.kernels.triton_backend import tuned_tiles
from flashmatch.kernels.triton_backend.chips import Chip
from flashmatch.kernels.triton_backend.plan import Prototypes, SearchPlan, choose_plan
from flashmatch.kernels.triton_backend.tiles import Tile, int8_tiles, masked
from flashmatch.kernels.triton_backend.tuned_tiles import Row, Tuned, path_for, read, write

TILES = int8_tiles(128, 90)
ROWS = (Row(128, 1024, TILES[0]), Row(512, 128, TILES[1]))
A100, H100 = Chip(80, 108), Chip(90, 132)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some" / "folder" / "tiles.json"


def test_what_was_written_is_read(path: Path) -> None:
    assert read(path) is None
    write(path, ROWS)
    assert read(path) == Tuned(ROWS)
    write(path, ROWS[:1])
    assert read(path) == Tuned(ROWS[:1])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_writing_is_all_or_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, ROWS)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write(path, ROWS[:1])
    assert read(path) == Tuned(ROWS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def table(**changes: object) -> str:
    row = {"channels": 64, "queries": 128, "tile": {**vars(TILES[0])}}
    return json.dumps({"format": tuned_tiles.FORMAT, "rows": [row | changes]})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "\0\xff",
        "[]",
        "null",
        "{}",
        '{"format": "flashmatch.tiles 2"}',
        '{"format": "flashmatch.tiles 2", "rows": null}',
        '{"format": "flashmatch.tiles 2", "rows": [3]}',
        '{"format": "flashmatch.tiles 1", "rows": []}',
        '{"format": "flashmatch.tiles 3", "rows": []}',
        "[" * 100_000,
        table(screen="int8"),
        table(channels=0),
        table(channels="64"),
        table(queries=1.5),
        table(queries=None),
        table(tile=None),
        table(tile={"block_q": 128}),
        table(tile={**vars(TILES[0]), "together": 1}),
        table(more=1),
    ],
)
def test_a_file_that_cannot_be_understood_is_ignored(content: str, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"tiles\.json.*Delete it or call flashmatch") as seen:
        assert read(path) is None
    assert len(seen) == 1


def test_a_good_file_is_no_news(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(table())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(path) == Tuned((Row(64, 128, TILES[0]),))


def test_a_folder_in_its_place_is_ignored(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.warns(UserWarning, match="ignored"):
        assert read(path) is None


def test_a_device_is_looked_up_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned_tiles, "default_path", lambda device: path)
    path.parent.mkdir(parents=True)
    path.write_text("nonsense")
    tuned_tiles.of_device.cache_clear()
    device = torch.device("cpu")
    try:
        with pytest.warns(UserWarning, match="ignored") as seen:
            assert [tuned_tiles.of_device(device) for _ in range(3)] == [None] * 3
        assert len(seen) == 1
        write(path, ROWS)
        assert tuned_tiles.of_device(device) is None
        tuned_tiles.of_device.cache_clear()
        assert tuned_tiles.of_device(device) == Tuned(ROWS)
    finally:
        tuned_tiles.of_device.cache_clear()


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FLASHMATCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "tiles-nvidia-h100-80gb-hbm3-mig-1g-10gb-triton-3.6.0+git1.json"
    given = "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "3.6.0+git1"
    assert path_for(*given) == tmp_path / ".cache" / "flashmatch" / name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert path_for(*given) == tmp_path / "xdg" / "flashmatch" / name
    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path / "own"))
    assert path_for(*given) == tmp_path / "own" / "flashmatch" / name
    monkeypatch.setenv("FLASHMATCH_CACHE", "")
    assert path_for(*given) == tmp_path / "xdg" / "flashmatch" / name
    assert path_for("../x/ Ä", "a/../b").parent == tmp_path / "xdg" / "flashmatch"


@pytest.mark.parametrize(
    ("channels", "queries", "nearest"),
    [
        (64, 128, 0),
        (1, 1, 0),
        (90, 9999, 1),  # 90/64 < 128/90
        (91, 9999, 3),  # 128/91 < 91/64
        (64, 361, 0),
        (64, 363, 1),  # 1024/363 < 363/128
        (10**6, 128, 2),
    ],
)
def test_the_nearest_row_by_ratio_channels_first(channels: int, queries: int, nearest: int) -> None:
    shapes = ((64, 128), (64, 1024), (128, 128), (128, 1024))
    tiles = tuple(Tile(128, 128, 64, 8, stages) for stages in (2, 3, 4, 5))
    rows = [Row(*shape, tile) for shape, tile in zip(shapes, tiles, strict=True)]
    for order in (rows, rows[::-1]):
        assert Tuned(tuple(order)).tile(queries, channels, tiles) == tiles[nearest]


def test_channels_are_nearest_before_queries() -> None:
    tuned = Tuned((Row(64, 8192, TILES[1]), Row(128, 128, TILES[0])))
    assert tuned.tile(128, 64, TILES) == TILES[1]
    assert tuned.tile(8192, 128, TILES) == TILES[0]


def test_tiles_that_the_chip_does_not_run_are_ignored() -> None:
    unknown = replace(TILES[0], warps=2)
    tuned = Tuned((Row(64, 128, unknown), Row(1024, 128, TILES[1])))
    assert tuned.tile(128, 64, TILES) == TILES[1]
    assert tuned.tile(128, 64, int8_tiles(128, 80)) is None
    assert Tuned(()).tile(128, 64, TILES) is None


def test_a_tile_keeps_its_kind_where_the_width_wants_other_channels() -> None:
    narrow = int8_tiles(192, 90)
    assert not set(narrow) & set(TILES)
    tuned = Tuned((Row(256, 128, TILES[1]),))
    assert tuned.tile(128, 192, narrow) == narrow[1]


def plans(queries: int, **given) -> list[SearchPlan]:
    """Of a bank's codes and of prototypes as given."""
    return [
        choose_plan(queries, prototypes, 5, workspace=2**28, **given)
        for prototypes in (
            Prototypes(100 * 1024, 768, 768, 1024),
            Prototypes(10**5, 768, 768, 256, coded_bytes=771, readable=True),
        )
    ]


@pytest.mark.parametrize("queries", [17, 128, 50_000])
def test_plans_follow_the_table(queries: int) -> None:
    tiles = int8_tiles(768, 90)
    table = Tuned((Row(64, 128, tiles[1]),))
    untuned, tuned = plans(queries, chip=H100), plans(queries, chip=H100, tuned=table)
    assert [plan.tile for plan in untuned] == [tiles[0]] * 2
    assert [plan.tile for plan in tuned] == [tiles[1]] * 2
    assert plans(queries, chip=A100, tuned=table) == plans(queries, chip=A100)
    assert plans(queries, chip=H100, tuned=Tuned(())) == untuned
    paired = plans(queries, chip=H100, tuned=table, pairs=True)
    assert [plan.tile for plan in paired] == [masked(tiles)] * 2


@pytest.mark.parametrize(("queries", "expected"), [(16384, 0), (10**6, 0), (17, 1)])
def test_the_queries_of_a_block_are_what_counts(queries: int, expected: int) -> None:
    """A search of a million is one of many blocks of 16,384."""
    tiles = int8_tiles(768, 90)
    table = Tuned((Row(768, 16384, tiles[0]), Row(768, 20_000, tiles[1]), Row(768, 17, tiles[1])))
    for plan in plans(queries, chip=H100, tuned=table):
        assert plan.tile == tiles[expected]


def test_few_queries_are_not_tuned() -> None:
    tuned = Tuned((Row(64, 16, int8_tiles(768, 90)[1]),))
    assert plans(16, chip=H100, tuned=tuned) == plans(16, chip=H100)


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_tune_refuses_what_the_kernels_do_not_run_on(
    device, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device must be .*; got .*cpu"):
        tune(device, path=path)
    assert not path.parent.exists()
