"""What the page shows of configs, read by mmengine beside the configs that mmpretrain ships."""

import shutil
from pathlib import Path

import mmpretrain
import pages
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import METRICS, MODELS

from flashmatch.retriever.mmpretrain import ImageToImageRetriever

(PAGE,) = pages.RUNS_IN["mmpretrain"]
SHIPPED = Path(mmpretrain.__file__).parent / ".mim/configs"
CHANGED = "resnet50-arcface_8xb32_inshop.py"
BLOCKS = list(pages.blocks((pages.ROOT / PAGE).read_text()))
FILE, FRAGMENT = (block.text for block in BLOCKS if block.kind == "python")
(DIFF,) = (block.text for block in BLOCKS if block.kind == "diff")


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """The folder of the config that is changed; what it inherits lies beside it."""
    for folder in ("_base_", "arcface"):
        shutil.copytree(SHIPPED / folder, tmp_path / folder)
    return tmp_path / "arcface"


def build(config: Config) -> ImageToImageRetriever:
    for part in config.model.image_encoder:
        part.pop("init_cfg", None)  # a download
    DefaultScope.get_instance("test", scope_name="mmpretrain")
    return MODELS.build(config.model)


def test_the_whole_change(configs: Path) -> None:
    before, after = (
        "".join(line[1:] + "\n" for line in DIFF.splitlines() if line[0] in (" ", sign))
        for sign in "-+"
    )
    path = configs / CHANGED
    shipped = path.read_text()
    assert shipped.count(before) == 1
    path.write_text(shipped.replace(before, after))
    assert isinstance(build(Config.fromfile(path)), ImageToImageRetriever)


def test_a_file_of_two_lines(configs: Path) -> None:
    assert FILE.count("\n") == 2
    path = configs / "ours.py"
    path.write_text(FILE)
    config = Config.fromfile(path)
    assert config.model.head.num_classes == 3997
    assert isinstance(build(config), ImageToImageRetriever)


def test_the_ten_best(configs: Path) -> None:
    path = configs / "ours.py"
    path.write_text(f"_base_ = [{CHANGED!r}]\n{FRAGMENT}")
    config = Config.fromfile(path)
    model = build(config)
    assert (model.topk, model.dense_scores) == (10, False)
    names = {type(METRICS.build(evaluator)).__module__ for evaluator in config.val_evaluator}
    assert names == {"flashmatch.retriever.mmpretrain.metrics"}
