"""The same config, weights and images: the same labels and scores, for every kind of prototype."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, default_collate, pseudo_collate
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import DataLoader

CHANNELS = 64
KINDS = (
    "tensor",
    "double tensor",
    "integers",
    "path",
    "path of any name",
    "dict",
    "shuffled dict",
    "dict with a dataset object",
    "default_collate",
    "pseudo_collate",
    "list of files",
)


@pytest.fixture
def prototype(request: pytest.FixtureRequest, gallery_config: dict, folder: Any, tmp_path) -> Any:
    """A prototype of the kind that the test's parameter names."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(40, CHANNELS, generator=generator).relu()
    dataset = CustomDataset(**_without_type(gallery_config["dataset"]))
    path = tmp_path / ("vectors.pth" if request.param == "path" else "vectors.gallery")
    torch.save(vectors, path)
    return {
        "tensor": vectors,
        "double tensor": vectors.double(),
        "integers": (vectors * 10).long(),
        "path": str(path),
        "path of any name": str(path),
        "dict": gallery_config,
        "shuffled dict": {**gallery_config, "sampler": {"type": "DefaultSampler", "shuffle": True}},
        "dict with a dataset object": {**gallery_config, "dataset": dataset},
        "default_collate": DataLoader(dataset, 7, collate_fn=default_collate),
        "pseudo_collate": DataLoader(dataset, 7, collate_fn=pseudo_collate),
        "list of files": DataLoader(_listed(folder, dataset), 7, collate_fn=default_collate),
    }[request.param]


@pytest.mark.parametrize("prototype", KINDS, indirect=True)
def test_predictions(
    prototype: Any, queries: Tensor, build_pair, assert_same_samples, error_of_the_original
) -> None:
    pair = build_pair(prototype=prototype)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        pair.original.prepare_prototype()
    encoded = isinstance(prototype, (dict, DataLoader))
    lost = error_of_the_original(pair, queries) if encoded else 0
    for topk in (-1, 1, 3, 99):
        pair.original.topk = pair.ours.topk = topk
        with torch.no_grad():
            theirs = pair.original.predict(queries)
        mine = pair.ours.predict(queries)
        assert_same_samples(mine, theirs, atol=2e-7 + lost)
        assert len(mine[0].pred_score) == 40
        assert len(mine[0].pred_label) == (40 if topk in (-1, 99) else topk)
    theirs, mine = pair.original.prototype_vecs, pair.ours.prototype_vecs
    assert mine.dtype == (theirs.dtype if theirs.is_floating_point() else torch.float32)
    torch.testing.assert_close(mine, theirs.to(mine.dtype), rtol=1e-6, atol=1e-6)
    assert pair.ours.prototype_ids.tolist() == list(range(40))
    assert pair.ours.state_dict().keys() == pair.original.state_dict().keys()


def test_images_are_recognised(gallery_config: dict, folder: Any, build_pair) -> None:
    """Against bugs that both would share: each image of the gallery finds itself."""
    pair = build_pair(prototype=gallery_config, topk=1)
    dataset = CustomDataset(**_without_type(gallery_config["dataset"]))
    batch = pseudo_collate([dataset[i] for i in range(40)])
    found = [int(sample.pred_label) for sample in pair.ours.test_step(batch)]
    assert found == list(range(40))


def test_matching_has_the_originals_three_entries(queries: Tensor, build_pair) -> None:
    pair = build_pair(prototype=torch.randn(30, CHANNELS), topk=4)
    features = torch.randn(6, CHANNELS)
    pair.original.prepare_prototype()
    theirs, mine = pair.original.matching(features), pair.ours.matching(features)
    assert mine.keys() == theirs.keys()
    for name in ("score", "pred_score"):
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=2e-7)
    assert mine["pred_label"].shape == theirs["pred_label"].shape == (6, 30)
    torch.testing.assert_close(
        mine["score"].gather(1, mine["pred_label"]), mine["pred_score"], rtol=0, atol=0
    )


def test_scores_are_differentiable(build_pair) -> None:
    pair = build_pair(prototype=torch.randn(30, CHANNELS))
    features = torch.randn(6, CHANNELS, requires_grad=True)
    weights = torch.randn(6, 30)
    pair.original.prepare_prototype()
    gradients = [
        torch.autograd.grad((model.matching(features)["score"] * weights).sum(), features)[0]
        for model in pair
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_callable_similarity_is_used_as_it_is(
    queries: Tensor, build_pair, assert_same_samples
) -> None:
    def manhattan(a: Tensor, b: Tensor) -> Tensor:
        return -torch.cdist(a, b, p=1)

    pair = build_pair(prototype=torch.randn(30, CHANNELS), similarity_fn=manhattan, topk=5)
    assert pair.ours.similarity_fn is manhattan
    with torch.no_grad():
        theirs = pair.original.predict(queries)
    assert_same_samples(pair.ours.predict(queries), theirs, atol=0)


def test_given_samples_are_filled_in_and_returned(
    queries: Tensor, build_pair, assert_same_samples
) -> None:
    pair = build_pair(prototype=torch.randn(30, CHANNELS), topk=5)
    given = [
        [DataSample(metainfo={"sample_idx": i}).set_gt_label([i]) for i in range(len(queries))]
        for _ in pair
    ]
    with torch.no_grad():
        results = [
            model.predict(queries, samples) for model, samples in zip(pair, given, strict=True)
        ]
    assert all(result is samples for result, samples in zip(results, given, strict=True))
    assert_same_samples(results[1], results[0])
    assert all(sorted(a.keys()) == sorted(b.keys()) for a, b in zip(*results, strict=True))
    assert all(a.metainfo == b.metainfo for a, b in zip(*results, strict=True))
    assert isinstance(pair.ours.predict(queries)[0], DataSample)


@pytest.mark.parametrize("augments", [None, {"type": "Mixup", "alpha": 0.8}])
def test_training_steps(augments: dict | None, digits: Tensor, build_pair) -> None:
    pair = build_pair(
        prototype=torch.randn(30, CHANNELS),
        train_cfg=augments and {"augments": augments, "probs": 1.0},
    )
    assert (pair.ours.data_preprocessor.batch_augments is None) == (augments is None)
    losses, gradients = [], []
    for model in pair:
        model.train()
        np.random.seed(3)  # noqa: NPY002 - mmpretrain's Mixup draws from it
        torch.manual_seed(3)
        samples = [DataSample().set_gt_label(i % 10) for i in range(12)]
        data = model.data_preprocessor({"inputs": digits[:12], "data_samples": samples}, True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=0)
    for mine, theirs in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_dumped_prototypes_go_both_ways(
    gallery_config: dict,
    queries: Tensor,
    tmp_path,
    build_pair,
    assert_same_samples,
    error_of_the_original,
) -> None:
    first = build_pair(prototype=gallery_config)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        first.original.dump_prototype(str(tmp_path / "theirs.pth"))
    first.ours.dump_prototype(str(tmp_path / "mine.pth"))
    assert type(torch.load(tmp_path / "mine.pth")) is Tensor
    again = build_pair(prototype="")
    again.original.prototype = str(tmp_path / "mine.pth")
    again.ours.prototype = str(tmp_path / "theirs.pth")
    with torch.no_grad():
        theirs = again.original.predict(queries)
    atol = 2e-7 + error_of_the_original(again, queries)
    assert_same_samples(again.ours.predict(queries), theirs, atol)


def _without_type(config: dict) -> dict:
    return {key: copy.deepcopy(value) for key, value in config.items() if key != "type"}


def _listed(folder: Any, like: CustomDataset) -> BaseDataset:
    """A dataset of a list of files, as the inferencer makes it."""
    dataset = BaseDataset(lazy_init=True, serialize_data=False, pipeline=like.pipeline.transforms)
    dataset.data_list = [
        {"sample_idx": i, "img_path": str(path)} for i, path in enumerate(sorted(folder.iterdir()))
    ]
    dataset._fully_initialized = True
    return dataset
