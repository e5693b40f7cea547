"""What mmpretrain's own tests of its retriever check, of ours; and the two kinds of scores."""

import copy
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from allocations import peak_bytes
from mmengine import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmpretrain.models import BaseRetriever
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import DataLoader

import flashmatch

CHANNELS = 64
OURS = "flashmatch.ImageToImageRetriever"
UNREAD = {
    "tensor": torch.rand(10, CHANNELS),
    "path": "./nowhere.pth",
    "loader": DataLoader([0, 1]),  # pyright: ignore
    "dict": {
        "batch_size": 16,
        "dataset": {"type": "CIFAR100", "data_prefix": "data/cifar100", "pipeline": []},
        "sampler": {"type": "DefaultSampler", "shuffle": True},
    },
}


@pytest.fixture
def model(model_config) -> Any:
    return MODELS.build(model_config(type=OURS, prototype=torch.rand(10, CHANNELS)))


@pytest.mark.parametrize("kind", UNREAD)
def test_prototypes_are_kept_and_not_read(kind: str, model_config) -> None:
    model = MODELS.build(model_config(type=OURS, prototype=UNREAD[kind]))
    assert type(model.prototype) is type(UNREAD[kind])
    assert not model.prototype_inited
    assert model.topk == -1
    assert model.similarity == "cosine_similarity"
    assert callable(model.similarity_fn)
    assert isinstance(model, (BaseRetriever, BaseModel))


@pytest.mark.parametrize("prototype", [5, None, [1.0]])
def test_other_prototypes_are_refused_as_by_the_original(prototype: Any, model_config) -> None:
    for error in (AssertionError, TypeError):
        with pytest.raises(error, match="prototype must be a tensor or array"):
            MODELS.build(model_config(type=OURS, prototype=prototype))


def test_batch_augments_come_from_train_cfg(model_config) -> None:
    for train_cfg, there in (({"augments": {"type": "Mixup", "alpha": 1.0}}, True), ({}, False)):
        config = model_config(type=OURS, prototype=UNREAD["tensor"], train_cfg=train_cfg)
        model = MODELS.build(config)
        assert (model.data_preprocessor.batch_augments is not None) is there


def test_config_dicts_and_features(model_config) -> None:
    config = ConfigDict(model_config(type=OURS, prototype=UNREAD["tensor"]))
    features = MODELS.build(config).extract_feat(torch.rand(1, 3, 64, 64))
    assert isinstance(features, tuple)
    assert [tuple(feature.shape) for feature in features] == [(1, CHANNELS)]


def test_forward_has_three_modes(model) -> None:
    images, samples = torch.rand(1, 3, 64, 64), [DataSample().set_gt_label(1)]
    assert isinstance(model(images)[0], Tensor)
    assert model(images, samples, mode="loss")["loss"] > 0
    assert model(images, mode="predict")[0].pred_score.shape == (10,)
    assert model(images, samples, mode="predict") is samples
    assert samples[0].pred_score.shape == samples[0].pred_label.shape == (10,)
    with pytest.raises(RuntimeError, match='Invalid mode "unknown"'):
        model(images, mode="unknown")


def test_steps_of_a_loop(model) -> None:
    samples = [DataSample().set_gt_label(1)]
    data = {"inputs": torch.randint(0, 256, (1, 3, 64, 64)), "data_samples": samples}
    wrapper = MagicMock()
    assert "loss" in model.train_step(data, wrapper)
    wrapper.update_params.assert_called_once()
    assert model.val_step(data)[0].pred_score.shape == (10,)
    assert model.test_step(data)[0].pred_score.shape == (10,)


def test_dumped_file_is_a_bare_tensor(model, model_config, tmp_path) -> None:
    model.dump_prototype(tmp_path / "vectors.pth")
    assert torch.equal(torch.load(tmp_path / "vectors.pth"), model.prototype)
    again = MODELS.build(model_config(type=OURS, prototype=str(tmp_path / "vectors.pth")))
    again.prepare_prototype()
    assert torch.equal(again.prototype_vecs, model.prototype_vecs)


@pytest.mark.parametrize("similarity", ["cosine_similarity", "dot_product", "euclidean_distance"])
@pytest.mark.parametrize("topk", [-1, 1, 7, 99])
def test_sparse_scores_are_aligned_and_exact(
    similarity: str, topk: int, queries: Tensor, model_config
) -> None:
    torch.manual_seed(1)
    vectors = torch.randn(40, CHANNELS).relu()
    config = model_config(prototype=vectors, topk=topk, similarity_fn=similarity)
    model = MODELS.build({"type": OURS, **config, "dense_scores": False}).eval()
    k = topk if topk in (1, 7) else 40
    with torch.no_grad():
        features = model.extract_feat(queries)[-1]
    metric = {"cosine_similarity": "cosine", "dot_product": "dot", "euclidean_distance": "l2"}
    scores, indices = flashmatch.topk(features, vectors, k, metric=metric[similarity])
    if similarity == "euclidean_distance":
        scores = -(-scores).sqrt()
    for sample, score, label in zip(model.predict(queries), scores, indices, strict=True):
        assert torch.equal(sample.pred_label, label)
        assert torch.equal(sample.pred_score, score)
        assert sample.num_classes == 40


def test_no_scores_hold_all_channels(build_pair) -> None:
    queries, rows, channels = 32, 2000, 256
    pair = build_pair(prototype=torch.randn(rows, channels), topk=10)
    features = torch.randn(queries, channels)
    for model in pair:
        model.prepare_prototype()

    def peak_of(model: Any) -> int:
        return peak_bytes(lambda: model.matching(features))

    everything = queries * rows * channels * 4
    assert peak_of(pair.original) > everything  # what the two measures below are to be seen against
    assert peak_of(pair.ours) < everything / 10
    pair.ours.dense_scores = False
    pair.ours.matching(features)
    assert peak_of(pair.ours) < everything / 10


def test_a_copy_predicts_the_same(model, queries: Tensor) -> None:
    """As EMAHook copies."""
    model.dense_scores = False
    first = model.predict(queries)
    again = copy.deepcopy(model).predict(queries)
    assert all(torch.equal(a.pred_label, b.pred_label) for a, b in zip(first, again, strict=True))


def test_moved_models_take_their_prototypes_along(model, queries: Tensor) -> None:
    first = torch.stack([sample.pred_label for sample in model.predict(queries)])
    model.double()
    assert model.prototype_vecs.dtype == torch.float64
    again = torch.stack([sample.pred_label for sample in model.predict(queries.double())])
    assert (first == again).float().mean() > 0.9
