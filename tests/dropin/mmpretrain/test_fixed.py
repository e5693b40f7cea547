"""What the original gets wrong and we do not: each test shows both, and so watches the original."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

CHANNELS = 64
MIXUP = {"type": "Mixup", "alpha": 0.8}


def vectors(rows: int = 30) -> Tensor:
    return torch.randn(rows, CHANNELS, generator=torch.Generator().manual_seed(2))


def test_caller_s_config_is_written_to(model_config) -> None:
    config = model_config(prototype=vectors(), train_cfg={"augments": MIXUP})
    before = copy.deepcopy(config["data_preprocessor"])
    MODELS.build({"type": "flashmatch.ImageToImageRetriever", **config})
    assert config["data_preprocessor"] == before
    MODELS.build({"type": "ImageToImageRetriever", **config})
    assert config["data_preprocessor"] != before


def test_data_preprocessor_cannot_be_a_module(model_config) -> None:
    config = model_config(prototype=vectors(), data_preprocessor=ClsDataPreprocessor())
    with pytest.raises(AttributeError):
        MODELS.build({"type": "ImageToImageRetriever", **config})
    model = MODELS.build({"type": "flashmatch.ImageToImageRetriever", **config})
    assert isinstance(model.data_preprocessor, ClsDataPreprocessor)
    config["train_cfg"] = {"augments": MIXUP}
    with pytest.raises(ValueError, match="train_cfg"):
        MODELS.build({"type": "flashmatch.ImageToImageRetriever", **config})


def test_pretrained_is_never_read(build_pair, tmp_path) -> None:
    path = tmp_path / "trained.pth"
    torch.save(
        {k: v + 1 for k, v in build_pair(prototype=vectors()).ours.state_dict().items()}, path
    )
    trained = torch.load(path)["image_encoder.0.conv1.weight"]
    for model, is_read in zip(
        build_pair(prototype=vectors(), pretrained=str(path)), (False, True), strict=True
    ):
        model.init_weights()
        assert torch.equal(model.image_encoder[0].conv1.weight, trained) is is_read


def test_unknown_similarity_recurses_at_first_use(build_pair, model_config) -> None:
    pair = build_pair(prototype=vectors())
    pair.original.similarity = "cosine"
    with pytest.raises(RecursionError):
        _ = pair.original.similarity_fn
    config = model_config(prototype=vectors(), similarity_fn="cosine")
    with pytest.raises(ValueError, match="similarity_fn must be one of 'cosine_similarity'"):
        MODELS.build({"type": "flashmatch.ImageToImageRetriever", **config})


def test_parameter_as_prototype_is_trained(build_pair) -> None:
    pair = build_pair(prototype=vectors())
    for model, is_trained in zip(pair, (True, False), strict=True):
        del model.prototype_inited
        if is_trained:
            del model.prototype
        model.prototype = nn.Parameter(vectors())
        assert ("prototype" in dict(model.named_parameters())) is is_trained


@pytest.mark.parametrize(("topk", "kept"), [(0, 0), (-5, 25)])
def test_senseless_topk_cuts_the_end_off(topk: int, kept: int, queries: Tensor, build_pair) -> None:
    pair = build_pair(prototype=vectors())
    pair.original.topk = topk
    assert len(pair.original.predict(queries)[0].pred_label) in (kept, 0)
    with pytest.raises(ValueError, match="topk must be at least 1, or -1 for all"):
        pair.ours.topk = topk


def test_new_prototype_is_ignored(queries: Tensor, build_pair) -> None:
    pair = build_pair(prototype=vectors())
    for model, rows in zip(pair, (30, 17), strict=True):
        model.predict(queries)
        model.prototype = vectors(17)
        assert len(model.predict(queries)[0].pred_score) == rows


def test_matching_needs_a_predict_before_it(build_pair) -> None:
    pair = build_pair(prototype=vectors())
    with pytest.raises(AttributeError):
        pair.original.matching(vectors(2))
    assert pair.ours.matching(vectors(2))["score"].shape == (2, 30)


def test_training_mode_changes_predictions(queries: Tensor, build_pair) -> None:
    """Batch statistics, and statistics that predicting overwrites; no gradient either."""
    pair = build_pair(prototype=vectors())
    with torch.no_grad():
        right = pair.original.predict(queries[:4])[0].pred_score
    differences = []
    for model in pair:
        model.train()
        score = model.predict(queries[:4])[0].pred_score
        differences.append(float((score.detach() - right).abs().max()))
        assert model.training
    assert differences[0] > 1e-3 > 2e-7 >= differences[1]
    assert not score.requires_grad


def test_encoding_leaves_the_encoder_in_eval_mode(gallery_config: dict, build_pair) -> None:
    pair = build_pair(prototype=gallery_config)
    for model, is_training in zip(pair, (False, True), strict=True):
        model.train()
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            model.prepare_prototype()
        assert model.training is is_training


def test_names_of_configs_are_unknown_outside_a_runner(gallery_config: dict, build_pair) -> None:
    pair = build_pair(prototype=gallery_config)
    with pytest.raises((KeyError, RuntimeError, TypeError)):
        pair.original.prepare_prototype()
    pair.ours.prepare_prototype()
    assert pair.ours.prototype_vecs.shape == (40, CHANNELS)


class WithoutIndices(CustomDataset):
    def prepare_data(self, idx: int) -> dict[str, Any]:
        data = super().prepare_data(idx)
        data["data_samples"] = DataSample()
        return data


def _loader(config: dict, dataset: type = CustomDataset, rows: slice | None = None, **options):
    built = dataset(**{k: v for k, v in config["dataset"].items() if k != "type"})
    built = built if rows is None else Subset(built, range(40)[rows])
    return DataLoader(built, 8, collate_fn=pseudo_collate, **options)


def test_samples_without_index_all_get_the_last_feature(gallery_config: dict, build_pair) -> None:
    pair = build_pair(prototype=_loader(gallery_config, WithoutIndices))
    pair.original.prepare_prototype()
    assert len(pair.original.prototype_vecs.unique(dim=0)) == 1
    pair.ours.prepare_prototype()
    right = build_pair(prototype=_loader(gallery_config)).ours
    right.prepare_prototype()
    assert torch.equal(pair.ours.prototype_vecs, right.prototype_vecs)


def test_subsets_do_not_fit(gallery_config: dict, build_pair) -> None:
    pair = build_pair(prototype=_loader(gallery_config, rows=slice(30, 40)))
    with pytest.raises(IndexError):
        pair.original.prepare_prototype()
    pair.ours.prepare_prototype()
    assert pair.ours.prototype_vecs.shape == (10, CHANNELS)
    assert pair.ours.prototype_ids.tolist() == list(range(30, 40))


def test_dropped_samples_become_zeros(gallery_config: dict, build_pair) -> None:
    """Their cosine is 0, and so they come before all that is dissimilar."""
    loader = _loader(gallery_config, rows=slice(0, 39), drop_last=True)
    pair = build_pair(prototype=loader)
    pair.original.prepare_prototype()
    assert not pair.original.prototype_vecs[32:].any()
    with pytest.raises(ValueError, match=r"32 distinct .* for the 39 samples"):
        pair.ours.prepare_prototype()


def test_nan_comes_first(queries: Tensor, build_pair) -> None:
    broken = vectors()
    broken[11, 3] = torch.nan
    pair = build_pair(prototype=broken)
    assert all(sample.pred_label[0] == 11 for sample in pair.original.predict(queries))
    with pytest.raises(ValueError, match=r"finite .* first \[11\]"):
        pair.ours.predict(queries)


def test_one_channel_matches_any_number(build_pair) -> None:
    pair = build_pair(prototype=vectors())
    pair.original.prepare_prototype()
    assert pair.original.matching(torch.ones(2, 1))["score"].shape == (2, 30)
    with pytest.raises(ValueError, match="features must have 64 channels"):
        pair.ours.matching(torch.ones(2, 1))


def test_fewer_samples_than_images_lose_images(queries: Tensor, build_pair) -> None:
    pair = build_pair(prototype=vectors())
    assert len(pair.original.predict(queries, [DataSample()])) == 1
    with pytest.raises(ValueError, match="one sample per image, 20; got 1"):
        pair.ours.predict(queries, [DataSample()])


def test_samples_with_num_classes_are_refused(queries: Tensor, build_pair) -> None:
    pair = build_pair(prototype=vectors())
    with pytest.raises(AssertionError, match="num_classes"):
        pair.original.predict(queries[:1], [DataSample(metainfo={"num_classes": 10})])
    (sample,) = pair.ours.predict(queries[:1], [DataSample(metainfo={"num_classes": 10})])
    assert sample.num_classes == 10
    assert len(sample.pred_score) == 30


def test_encoders_without_weights_stop_the_iteration(model_config) -> None:
    config = model_config(image_encoder=nn.Flatten(), prototype=torch.rand(5, 12))
    original = MODELS.build({"type": "ImageToImageRetriever", **config})
    with pytest.raises(StopIteration):
        original.prepare_prototype()
    model = MODELS.build({"type": "flashmatch.ImageToImageRetriever", **config})
    assert len(model.predict(torch.rand(2, 3, 2, 2))) == 2


def test_half_prototypes_are_scored_in_half(queries: Tensor, build_pair) -> None:
    half = vectors().relu().half()
    pair = build_pair(prototype=half)
    with torch.no_grad():
        features = pair.original.extract_feat(queries)[-1]
        theirs = pair.original.predict(queries)
    exact = torch.cosine_similarity(features.double()[:, None], half.double(), dim=-1)
    errors = [
        max(float((s.pred_score - e).abs().max()) for s, e in zip(samples, exact, strict=True))
        for samples in (theirs, pair.ours.predict(queries))
    ]
    assert errors[1] <= 2e-7
    assert errors[1] <= errors[0]


def test_ties_come_in_any_order(build_pair) -> None:
    copies = vectors(1).repeat(300, 1)
    pair = build_pair(prototype=copies)
    labels = pair.ours.matching(vectors(4))["pred_label"]
    assert torch.equal(labels, torch.arange(300).expand(4, -1))


def test_arrays_and_paths_are_refused(tmp_path, build_pair, model_config) -> None:
    path = tmp_path / "vectors.safetensors"
    build_pair(prototype=vectors()).ours.dump_prototype(path)
    for prototype in (vectors().numpy(), path):
        config = model_config(prototype=prototype)
        with pytest.raises(AssertionError):
            MODELS.build({"type": "ImageToImageRetriever", **copy.deepcopy(config)})
        model = MODELS.build({"type": "flashmatch.ImageToImageRetriever", **config})
        model.prepare_prototype()
        np.testing.assert_array_equal(model.prototype_vecs, vectors())


def test_a_head_that_is_missing_is_an_attribute_error(queries: Tensor, build_pair) -> None:
    pair = build_pair(prototype=vectors(), head=None)
    with pytest.raises(AttributeError):
        pair.original.loss(queries, None)
    with pytest.raises(ValueError, match="head must be given"):
        pair.ours.loss(queries, None)
