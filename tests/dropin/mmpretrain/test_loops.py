"""The shipped InShop config, Runner, hooks, evaluators and the inferencer, with either class."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmpretrain import ImageRetrievalInferencer
from mmpretrain.engine import PrepareProtoBeforeValLoopHook
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from flashmatch.retriever.mmpretrain import ImageToImageRetriever

SHIPPED = Path(mmpretrain.__file__).parent / ".mim/configs/arcface/resnet50-arcface_8xb32_inshop.py"
CHANGE = """
_base_ = [{shipped!r}]
custom_imports = dict(imports=["flashmatch.retriever.mmpretrain"])
model = dict(type="flashmatch.ImageToImageRetriever")
"""


@pytest.fixture(scope="module")
def in_shop(digits: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits laid out as the InShop dataset: 20 to train on, 24 in the gallery, 16 queries."""
    root = tmp_path_factory.mktemp("inshop")
    (root / "Img/img").mkdir(parents=True)
    (root / "Eval").mkdir()
    lines = ["60", "image_name item_id evaluation_status"]
    for i, (digit, shown) in enumerate(zip(digits, load_digits().target, strict=False)):
        name = f"img/{i:02}.png"
        part = "train" if i < 20 else "gallery" if i < 44 else "query"
        Image.fromarray(digit.permute(1, 2, 0).numpy()).save(root / "Img" / name)
        lines.append(f"{name} id_{shown} {part}")
    (root / "Eval/list_eval_partition.txt").write_text("\n".join(lines))
    return root


@pytest.fixture
def config_of(in_shop: Path, tmp_path: Path) -> Callable[[bool], Config]:
    """The shipped config or the changed one, on those images, with a small encoder."""

    def build(ours: bool) -> Config:
        (tmp_path / "changed.py").write_text(CHANGE.format(shipped=str(SHIPPED)))
        config = Config.fromfile(tmp_path / "changed.py" if ours else SHIPPED)
        name = "flashmatch.ImageToImageRetriever" if ours else "ImageToImageRetriever"
        assert config.model.type == name
        config.model.image_encoder[0].update(depth=18, base_channels=8, init_cfg=None)
        config.model.head.update(num_classes=10, in_channels=64)
        config.data_preprocessor.num_classes = 10
        loaders = (config.train_dataloader, config.val_dataloader, config.test_dataloader)
        for loader in (*loaders, config.model.prototype):
            loader.update(num_workers=0, persistent_workers=False, batch_size=10)
            loader.dataset.data_root = str(in_shop)
            for step in loader.dataset.pipeline:
                step.update({k: v for k, v in (("scale", 40), ("crop_size", 32)) if k in step})
        config.train_cfg.max_epochs = 2
        config.randomness = {"seed": 0}
        config.work_dir = str(tmp_path / name)
        return config

    return build


def runner_of(config: Config) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Runner.from_cfg(config)


def test_test_loop_of_the_shipped_config(config_of) -> None:
    theirs, mine = (runner_of(config_of(ours)).test() for ours in (False, True))
    assert mine.keys() == theirs.keys() == {"retrieval/Recall@1", "retrieval/mAP@10"}
    assert mine == pytest.approx(theirs)
    assert mine["retrieval/Recall@1"] > 20  # chance is 10: digits do resemble each other


def test_training_of_the_shipped_config(config_of, assert_same_samples) -> None:
    """Two epochs with validation after each: the same weights, the same metrics."""
    runners, metrics = [], []
    for ours in (False, True):
        runners.append(runner_of(config_of(ours)))
        runners[-1].train()
        metrics.append(runners[-1].val_loop.run())
    theirs, mine = (runner.model.state_dict() for runner in runners)
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(mine[key], value)
    assert metrics[1].keys() == metrics[0].keys()  # one swap of near ties changes the numbers
    for batch in runners[0].val_dataloader:
        theirs, mine = (runner.model.val_step(copy.deepcopy(batch)) for runner in runners)
        assert_same_samples(mine, theirs, atol=1e-6)
    # Prepared anew by the hook before each validation, and so up to date with the weights.
    kept = runners[1].model.prototype_vecs.clone()
    runners[1].model.prepare_prototype()
    torch.testing.assert_close(runners[1].model.prototype_vecs, kept, rtol=0, atol=0)


def test_exact_search_gives_the_same_metrics(config_of) -> None:
    config = config_of(True)
    config.model.update(dense_scores=False, topk=10)
    for evaluator in config.test_evaluator:
        evaluator.type = f"flashmatch.{evaluator.type}"
    assert runner_of(config).test() == pytest.approx(runner_of(config_of(False)).test())


def test_the_hook_takes_our_class_for_a_retriever(build_pair, recwarn) -> None:
    class Running:
        model = build_pair(prototype=torch.randn(30, 64)).ours

    PrepareProtoBeforeValLoopHook().before_val(Running())
    assert Running.model.prototype_inited
    assert not [w for w in recwarn if "BaseRetriever" in str(w.message)]


@pytest.mark.parametrize("kind", ["folder", "list", "dict", "cache"])
def test_inferencer(kind: str, config_of, folder: Path, in_shop: Path, tmp_path: Path) -> None:
    results = []
    weights: Any = None
    for ours in (False, True):
        config = config_of(ours)
        config.model.data_preprocessor = config.data_preprocessor
        model = mmpretrain.registry.MODELS.build(config.model)
        weights = weights or model.state_dict()
        model.load_state_dict(weights)
        model._config = config
        files = sorted(str(path) for path in folder.iterdir())
        inferencer = ImageRetrievalInferencer(
            model,
            prototype={
                "folder": str(folder),
                "cache": str(folder),
                "list": files,
                "dict": {"type": "CustomDataset", "data_root": str(folder), "with_label": False},
            }[kind],
            prototype_cache=str(tmp_path / "cache.pth") if kind == "cache" else None,
            prepare_batch_size=8,
        )
        images = [str(in_shop / "Img/img" / f"{i}.png") for i in (44, 45, 46)]
        results.append([inferencer([*files[:2], *images], topk=5, batch_size=2), inferencer])
    assert [matches[0]["sample_idx"] for matches in results[1][0][:2]] == [0, 1]
    for theirs, mine in zip(results[0][0], results[1][0], strict=True):
        scores = [torch.stack([match["match_score"] for match in m]) for m in (theirs, mine)]
        torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=1e-6)
        assert [m["sample"]["img_path"] for m in mine] == [m["sample"]["img_path"] for m in theirs]


def test_all_names_of_the_class(model_config) -> None:
    names = ("flashmatch", "flashmatch.retriever.mmpretrain")
    for name in (*(f"{scope}.ImageToImageRetriever" for scope in names), ImageToImageRetriever):
        config = model_config(prototype=torch.randn(3, 64), type=name)
        assert type(MODELS.build(config)) is ImageToImageRetriever
        assert type(mmpretrain.registry.MODELS.build(config)) is ImageToImageRetriever
