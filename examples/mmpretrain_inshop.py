"""mmpretrain's InShop config with flashmatch's retriever, trained and tested on digits.

    python examples/mmpretrain_inshop.py            # all scores, as the original
    python examples/mmpretrain_inshop.py --exact    # the ten best

The config is the one that mmpretrain ships, with one type changed and sizes made smaller. The data
are the handwritten digits that come with scikit-learn, laid out as the InShop dataset: a third to
train on, a third the gallery, a third queries. (In InShop itself the items of the gallery are not
those of training.)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from mmengine.config import Config

SHIPPED = ".mim/configs/arcface/resnet50-arcface_8xb32_inshop.py"
CHANGE = """
_base_ = ["{shipped}"]
model = dict(type="flashmatch.ImageToImageRetriever")
"""
SIDE = 32


def write_digits(root: Path, count: int) -> None:
    """``count`` digits as images (32, 32), and the file that says which are what."""
    from sklearn.datasets import load_digits

    (root / "Img/img").mkdir(parents=True)
    (root / "Eval").mkdir()
    pixels, digits = load_digits(return_X_y=True)
    lines = [str(count), "image_name item_id evaluation_status"]
    for i, (image, digit) in enumerate(zip(pixels[:count], digits[:count], strict=True)):
        name = f"img/{i:04}.png"
        enlarged = np.kron(image.reshape(8, 8) * 255 / 16, np.ones((SIDE // 8, SIDE // 8)))
        Image.fromarray(enlarged.astype(np.uint8)).convert("RGB").save(root / "Img" / name)
        lines.append(f"{name} id_{digit} {('train', 'gallery', 'query')[i % 3]}")
    (root / "Eval/list_eval_partition.txt").write_text("\n".join(lines))


def changed_config(folder: Path, exact: bool) -> Config:
    """The shipped config with our class; with ``exact``, with exact top-k instead of all scores."""
    import mmpretrain
    from mmengine.config import Config

    path = folder / "flashmatch_inshop.py"
    path.write_text(CHANGE.format(shipped=Path(mmpretrain.__file__).parent / SHIPPED))
    config = Config.fromfile(path)
    if exact:
        config.model.update(dense_scores=False, topk=10)
        for evaluator in (*config.val_evaluator, *config.test_evaluator):
            evaluator.type = f"flashmatch.{evaluator.type}"
    return config


def make_small(config: Config, data: Path, epochs: int) -> None:
    """Digits instead of clothes, a ResNet-18 with random weights, no worker processes."""
    config.model.image_encoder[0].update(depth=18, base_channels=16, init_cfg=None)
    config.model.head.update(num_classes=10, in_channels=128)
    config.data_preprocessor.num_classes = 10
    loaders = (config.train_dataloader, config.val_dataloader, config.test_dataloader)
    for loader in (*loaders, config.model.prototype):
        loader.num_workers = 0
        loader.dataset.data_root = str(data)
        for step in loader.dataset.pipeline:
            step.update({k: v for k, v in (("scale", SIDE), ("crop_size", SIDE)) if k in step})
            step.update({"prob": 0.0} if step.type == "RandomFlip" else {})
    config.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    config.param_scheduler = None
    config.auto_scale_lr = None
    config.randomness = {"seed": 0}


def main(epochs: int = 3, count: int = 900, exact: bool = False) -> dict[str, float]:
    """Recall@1 and mAP@10 of the queries, in percent."""
    from mmengine.runner import Runner

    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder) / "digits", count)
        config = changed_config(Path(folder), exact)
        make_small(config, Path(folder) / "digits", epochs)
        config.work_dir = f"{folder}/work"
        runner = Runner.from_cfg(config)
        runner.train()
        metrics = runner.test()
    for name, value in metrics.items():
        print(f"{name} {value:.2f}")
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="mmpretrain's InShop config with flashmatch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--count", type=int, default=900, help="digits, at most 1797")
    parser.add_argument("--exact", action="store_true", help="exact top-k instead of all scores")
    options = parser.parse_args()
    if not (find_spec("mmpretrain") and find_spec("sklearn")):
        install = 'pip install "flashmatch[examples-mmpretrain]"'
        sys.exit(f"{sys.argv[0]} needs mmpretrain and scikit-learn: {install}")
    main(**vars(options))
