"""The example that finds near-duplicates in a folder, on real photographs and on made-up rows."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "dedup_folder.py")


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    pytest.importorskip("scipy")
    return SimpleNamespace(**runpy.run_path(EXAMPLE))


def test_exactly_the_copies_of_photographs_are_found(
    example: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage")
    groups = example.main()
    assert len(groups) >= 10
    assert {"camera.png", "copies/camera half.png", "copies/camera 30.jpg"} in groups
    assert not any("chelsea.png" in group or len(group) > 4 for group in groups)
    assert "These are exactly the" in capsys.readouterr().out


@pytest.mark.parametrize("threshold", [0.5, 0.9999])
def test_a_wrong_threshold_is_noticed(example: SimpleNamespace, threshold: float) -> None:
    pytest.importorskip("skimage")
    with pytest.raises(SystemExit, match="expected"):
        example.main(threshold=threshold)


@pytest.mark.parametrize("copies", [1, 7, 40])
def test_no_pair_is_missed_however_many_there_are(example: SimpleNamespace, copies: int) -> None:
    generator = torch.Generator().manual_seed(copies)
    features = torch.randn(12, 6, generator=generator).repeat(copies, 1)
    features += 0.2 * torch.randn(features.shape, generator=generator)
    cosines = F.normalize(features.double()) @ F.normalize(features.double()).T
    assert not (cosines - 0.9).abs().lt(1e-7).any()
    groups = {row: frozenset([row]) for row in range(len(features))}
    for i, j in (cosines >= 0.9).nonzero().tolist():
        together = groups[i] | groups[j]
        groups.update(dict.fromkeys(together, together))
    expected = {group for group in groups.values() if len(group) > 1}
    found = example.groups_of(features, 0.9)
    assert len(found) == len(expected)
    assert set(map(frozenset, found)) == expected


def test_groups_are_what_pairs_connect(example: SimpleNamespace) -> None:
    angles = torch.tensor([0.0, 50.0, 10.0, 180.0, 20.0, 55.0]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert example.groups_of(features, 0.98) == [[0, 2, 4], [1, 5]]  # 11.5 degrees
    assert example.groups_of(features[:0], 0.98) == []


def test_a_folder_of_ones_own(
    example: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main(tmp_path) == []
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for name, number, side in (("a", 0, 64), ("b", 1, 64), ("c", 0, 960)):
        image = Image.fromarray(pixels[number]).resize((side, side), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{name}.png")
    (tmp_path / "broken.jpg").write_text("no image")
    assert example.main(tmp_path) == [{"a.png", "c.png"}]
    shown = capsys.readouterr().out
    assert "c.png (960 x 960)\n  a.png (64 x 64)\n" in shown
    assert "skipped  broken.jpg" in shown
    with pytest.raises(SystemExit, match="--images must be a folder; got"):
        example.main(tmp_path / "broken.jpg")
