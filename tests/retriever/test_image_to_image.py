"""Predictions, modes, and eval mode that comes and goes."""

import pytest
import torch
from retrieved import SIMILARITIES, assert_same_order, encoder, original_scores, retriever_of
from torch import Tensor, nn

from flashmatch.retriever import DataSample, LossHead


def test_predict_all_keeps_the_originals_meaning(images: Tensor, vectors: Tensor) -> None:
    retriever = retriever_of(vectors)
    expected = original_scores(retriever.image_encoder(images).detach(), vectors)
    for sample, row in zip(retriever.predict(images), expected, strict=True):
        torch.testing.assert_close(sample.pred_score, row, rtol=0, atol=2e-7)
        assert_same_order(sample.pred_label[None], row[None], 4e-7)


def test_unsorted_scores_with_topk_k_predict_is_aligned(images: Tensor, vectors: Tensor) -> None:
    retriever = retriever_of(vectors, topk=3)
    expected = original_scores(retriever.image_encoder(images), vectors)
    for sample, row in zip(retriever.predict(images), expected, strict=True):
        assert sample.pred_score.shape == sample.pred_label.shape == (3,)
        torch.testing.assert_close(sample.pred_score, row[sample.pred_label], rtol=0, atol=2e-7)


def test_predict_fills_the_given_samples(images: Tensor, vectors: Tensor) -> None:
    given = [DataSample(metainfo={"sample_idx": i}) for i in range(5)]
    assert retriever_of(vectors).predict(images, given) is given
    assert [sample.sample_idx for sample in given] == list(range(5))
    assert all("pred_label" in sample for sample in given)


def test_samples_can_be_reused_when_the_gallery_grows(images: Tensor, vectors: Tensor) -> None:
    samples = retriever_of(vectors).predict(images)
    retriever_of(torch.randn(40, 7)).predict(images, samples)
    assert len(samples[0].pred_score) == 40


def test_test_step_preprocesses_and_keeps_labels(vectors: Tensor) -> None:
    raw = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    retriever = retriever_of(
        vectors, data_preprocessor={"mean": [100.0] * 3, "std": [50.0] * 3}, topk=2
    )
    samples = retriever.test_step((raw, torch.arange(5)))
    expected = retriever.predict((raw.float() - 100) / 50)
    for sample, other in zip(samples, expected, strict=True):
        assert torch.equal(sample.pred_label, other.pred_label)
    assert [int(sample.gt_label) for sample in samples] == list(range(5))


def test_forward_modes(images: Tensor, vectors: Tensor) -> None:
    head = LossHead(lambda feats, labels: feats.mean() + labels.sum())
    retriever = retriever_of(vectors, head=head, topk=1)
    assert torch.equal(retriever(images), retriever.image_encoder(images))
    assert retriever(images, mode="tensor").requires_grad
    loss = retriever(images, torch.arange(5), mode="loss")["loss"]
    loss.backward()
    assert retriever.image_encoder[1].weight.grad.abs().sum() > 0
    assert len(retriever(images, mode="predict")) == 5
    with pytest.raises(ValueError, match="mode must be 'tensor', 'loss' or 'predict'; got 'x'"):
        retriever(images, mode="x")


def test_loss_without_head_is_a_clear_error(images: Tensor, vectors: Tensor) -> None:
    with pytest.raises(ValueError, match="head must be given"):
        retriever_of(vectors).loss(images, torch.arange(5))


@pytest.mark.parametrize("kind", [tuple, list])
def test_last_of_several_features_is_matched(kind, images: Tensor, vectors: Tensor) -> None:
    linear = encoder()
    several = retriever_of(vectors, image_encoder=lambda x: kind([x, linear(x)]), topk=2)
    single = retriever_of(vectors, image_encoder=linear, topk=2)
    assert isinstance(several(images), kind)
    for one, other in zip(several.predict(images), single.predict(images), strict=True):
        assert torch.equal(one.pred_label, other.pred_label)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("topk", [-1, 3])
def test_matching_is_differentiable_and_predict_is_not(
    topk: int, name: str, images: Tensor, vectors: Tensor
) -> None:
    image_encoder = encoder()
    vectors[:2] = image_encoder(images[:2]).detach()  # where a distance has no slope
    retriever = retriever_of(vectors, image_encoder=image_encoder, similarity_fn=name, topk=topk)
    sample = retriever.predict(images)[0]  # prepares within inference mode
    assert not sample.pred_score.requires_grad
    assert not any(t.is_inference() for t in (sample.pred_score, sample.pred_label))
    feats = retriever(images)
    scores = retriever.matching(feats)["score"]
    scores.sum().backward()
    gradient = image_encoder[1].weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


class Fickle(nn.Module):
    """Batch statistics and dropout: right only in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.BatchNorm2d(3)
        self.linear = encoder()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(self.frozen(self.norm(x))))


def test_eval_mode_is_restored_for_each_submodule(images: Tensor) -> None:
    fickle = Fickle()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=2)
    retriever = retriever_of(loader, image_encoder=fickle).train()
    fickle.frozen.eval()
    before = {name: module.training for name, module in retriever.named_modules()}
    retriever.prepare_prototype()
    retriever.predict(images)
    assert {name: module.training for name, module in retriever.named_modules()} == before
    assert int(fickle.norm.num_batches_tracked) == 0


def test_eval_mode_is_restored_after_an_error(vectors: Tensor) -> None:
    retriever = retriever_of(vectors).train()
    with pytest.raises(RuntimeError):
        retriever.predict(torch.randn(2, 3, 9, 9))
    assert all(module.training for module in retriever.modules())


def test_prediction_in_train_mode_equals_prediction_in_eval_mode(images: Tensor) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=2)
    retriever = retriever_of(loader, image_encoder=Fickle(), topk=1).train()
    found = [int(sample.pred_label) for sample in retriever.predict(images)]
    assert found == list(range(5))
