"""The preprocessor against the order the original fixed: flip, float, normalise, pad."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flashmatch.retriever import DataSample, ImagePreprocessor, ImageToImageRetriever

STATISTICS = {"mean": [10.0, 20.0, 30.0], "std": [2.0, 4.0, 8.0]}


def raw(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def run(data, training: bool = False, **options):
    return ImagePreprocessor(**options)(data, training)


def test_default_makes_float_and_nothing_else() -> None:
    images = raw(2, 3, 5, 7)
    result = run({"inputs": images})
    assert result["data_samples"] is None
    assert result["inputs"].dtype == torch.float32
    assert torch.equal(result["inputs"], images.float())


def test_flip_normalise_pad_in_this_order() -> None:
    images = raw(2, 3, 5, 7)
    result = run(images, **STATISTICS, to_rgb=True, pad_size_divisor=4, pad_value=9)["inputs"]
    mean, std = (torch.tensor(STATISTICS[key])[:, None, None] for key in ("mean", "std"))
    assert result.shape == (2, 3, 8, 8)
    torch.testing.assert_close(result[..., :5, :7], (images.flip(1).float() - mean) / std)
    assert (result[..., 5:, :] == 9).all()
    assert (result[..., 7:] == 9).all()


def test_flip_needs_three_channels() -> None:
    images = raw(2, 4, 5, 7)
    assert torch.equal(run(images, to_rgb=True)["inputs"], images.float())


def test_unequal_images_are_padded_to_the_largest() -> None:
    images = [raw(3, 5, 7), raw(3, 6, 2)]
    result = run({"inputs": images}, pad_size_divisor=4, pad_value=-1)["inputs"]
    assert result.shape == (2, 3, 8, 8)
    assert torch.equal(result[1, :, :6, :2], images[1].float())
    assert (result[1, :, :, 2:] == -1).all()
    assert torch.equal(result[0, :, :5, :7], images[0].float())


@pytest.mark.parametrize("to_rgb", [False, True])
def test_arrays_and_pil_images_are_channels_last(to_rgb: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    expected = torch.from_numpy(array).permute(2, 0, 1).float()
    flipped = expected.flip(0) if to_rgb else expected
    for kind in (array, [array], array[None]):
        result = run({"inputs": kind}, to_rgb=to_rgb)["inputs"]
        assert torch.equal(result, flipped[None])
    picture = Image.fromarray(array)
    assert torch.equal(run(picture, to_rgb=to_rgb)["inputs"][0], expected)  # PIL is RGB already


def test_grey_images() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert run(grey)["inputs"].shape == (1, 1, 2, 3)
    assert run(Image.fromarray(grey))["inputs"].shape == (1, 3, 2, 3)


def test_result_takes_the_modules_dtype_after_fp32_arithmetic() -> None:
    images = raw(2, 3, 5, 7)
    result = ImagePreprocessor(**STATISTICS).half()(images)["inputs"]
    assert result.dtype == torch.float16
    assert torch.equal(result, run(images, **STATISTICS)["inputs"].half())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [1.0]}, "mean and std must be given together"),
        ({"mean": [1.0, 2.0], "std": [1.0, 2.0]}, "1 or 3 entries"),
        ({"mean": [1.0], "std": [0.0]}, "std must be positive; got"),
        ({"pad_size_divisor": 0}, "pad_size_divisor must be at least 1; got 0"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImagePreprocessor(**options)


# Labels and augments


def batch_of_samples() -> dict:
    samples = [DataSample().set_gt_label(label) for label in (2, 0, 1, 2)]
    return {"inputs": raw(4, 3, 8, 8), "data_samples": samples}


@pytest.mark.parametrize("kind", ["Mixup", "CutMix"])
def test_augments_mix_images_and_soften_labels(kind: str) -> None:
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    preprocessor = ImageToImageRetriever(
        nn.Flatten(),
        torch.ones(2, 3),
        train_cfg={"augments": {"type": kind, "alpha": 1.0}},
        data_preprocessor={"num_classes": 3},
    ).data_preprocessor
    batch = batch_of_samples()
    result = preprocessor(batch, training=True)
    scores = torch.stack([sample.gt_score for sample in result["data_samples"]])
    assert not torch.equal(result["inputs"], batch["inputs"].float())
    assert scores.shape == (4, 3)
    torch.testing.assert_close(scores.sum(1), torch.ones(4))
    assert ((scores > 0).sum(1) > 1).any()
    assert all("gt_score" not in sample for sample in batch["data_samples"])

    labels = torch.tensor([2, 0, 1, 2])
    soft = preprocessor((batch["inputs"], labels), training=True)["data_samples"]
    assert soft.shape == (4, 3)

    plain = preprocessor(batch, training=False)
    assert torch.equal(plain["inputs"], batch["inputs"].float())
    assert plain["data_samples"] is batch["data_samples"]


def test_probabilities_choose_among_augments() -> None:
    calls = []

    def augment(name: str):
        def apply(images: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
            calls.append(name)
            return images, scores

        return apply

    torch.manual_seed(0)
    preprocessor = ImagePreprocessor(
        num_classes=3,
        batch_augments={"augments": [augment("a"), augment("b")], "probs": [0.2, 0.5]},
    )
    for _ in range(300):
        preprocessor((raw(1, 1, 1, 1), torch.tensor([1])), training=True)
    assert abs(calls.count("a") / 300 - 0.2) < 0.08
    assert abs(calls.count("b") / 300 - 0.5) < 0.1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"augments": {"type": "Blur"}}, r"type among Mixup, .* got 'Blur'"),
        ({"augments": [len, len], "probs": [0.5]}, "each of 2 augments a probability"),
        ({"augments": [len], "probs": 1.5}, "at most 1 in all; got 1.5"),
    ],
)
def test_wrong_augments_are_named(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageToImageRetriever(nn.Flatten(), torch.ones(2, 3), train_cfg=config)


def test_augments_need_a_preprocessor_of_ours() -> None:
    with pytest.raises(ValueError, match="needs data_preprocessor to be a dict or None"):
        ImageToImageRetriever(
            nn.Flatten(),
            torch.ones(2, 3),
            train_cfg={"augments": [len]},
            data_preprocessor=ImagePreprocessor(),
        )


def test_train_cfg_without_augments_is_ignored() -> None:
    retriever = ImageToImageRetriever(nn.Flatten(), torch.ones(2, 3), train_cfg={"other": 1})
    assert retriever.data_preprocessor.batch_augments is None


def test_one_hot_needs_the_number_of_classes() -> None:
    batch = batch_of_samples()
    with pytest.raises(ValueError, match="needs num_classes"):
        run(batch, to_onehot=True)
    with pytest.raises(ValueError, match="between 0 and num_classes - 1 = 1; got 0 to 2"):
        run(batch, to_onehot=True, num_classes=2)
    scores = [
        s.gt_score.tolist() for s in run(batch, to_onehot=True, num_classes=3)["data_samples"]
    ]
    assert scores == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    for sample in batch["data_samples"]:
        sample.set_metainfo({"num_classes": 3})
    assert run(batch, to_onehot=True)["data_samples"][0].gt_score.tolist() == [0, 0, 1]


def test_own_module_and_type_are_used() -> None:
    class Own(nn.Module):
        def forward(self, data: dict, training: bool = False) -> dict:
            return {"inputs": torch.stack(data["inputs"]) * 2, "data_samples": None}

    images = torch.randn(3, 4)
    for own in (Own(), {"type": Own}):
        retriever = ImageToImageRetriever(
            nn.Identity(), {"dataset": list(images)}, data_preprocessor=own, progress=False
        )
        retriever.prepare_prototype()
        assert torch.equal(retriever.prototype_vecs, images * 2)
    named = {"type": "ClsDataPreprocessor", **STATISTICS}
    before = copy.deepcopy(named)
    retriever = ImageToImageRetriever(nn.Identity(), images, data_preprocessor=named)
    assert retriever.data_preprocessor.mean == (10, 20, 30)
    assert named == before


def test_a_mean_is_of_images() -> None:
    with pytest.raises(ValueError, match=r"inputs must be images .*; got shape \(4, 3\)"):
        ImagePreprocessor(**STATISTICS)(torch.rand(4, 3))
