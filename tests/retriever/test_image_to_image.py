"""The retriever against the original's formula, and against the original's traps."""

import copy

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flashmatch.retriever import DataSample, ImageToImageRetriever, LossHead

SIMILARITIES = ("cosine_similarity", "dot_product", "euclidean_distance")


def original_scores(queries: Tensor, prototypes: Tensor) -> Tensor:
    """What mmpretrain computes: (N, M, C) at once."""
    return torch.cosine_similarity(queries.unsqueeze(1), prototypes.unsqueeze(0), dim=-1)


def dense(queries: Tensor, prototypes: Tensor, name: str) -> Tensor:
    if name == "cosine_similarity":
        return original_scores(queries, prototypes)
    if name == "dot_product":
        return (queries.unsqueeze(1) * prototypes.unsqueeze(0)).sum(-1)
    return -(queries.unsqueeze(1) - prototypes.unsqueeze(0)).norm(dim=-1)


def assert_same_order(labels: Tensor, scores: Tensor, tolerance: float) -> None:
    """``labels`` (N, k) are the best of ``scores`` (N, M), but for swaps within ``tolerance``."""
    best = scores.sort(descending=True, dim=-1).values[:, : labels.shape[1]]
    torch.testing.assert_close(scores.gather(1, labels), best, rtol=0, atol=tolerance)
    for row in labels.tolist():
        assert len(set(row)) == len(row)


def encoder(channels: int = 7) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, channels))


def retriever_of(prototype, *, image_encoder=None, **options) -> ImageToImageRetriever:
    return ImageToImageRetriever(image_encoder or encoder(), prototype, progress=False, **options)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 4, 4)


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(31, 7)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Results


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (13, 101, 37), (8, 400, 128)], ids=str)
def test_topk_all_gives_the_originals_scores_and_order(shape) -> None:
    n, m, c = shape
    queries, prototypes = torch.randn(n, c), torch.randn(m, c)
    expected = original_scores(queries, prototypes)
    result = retriever_of(prototypes).matching(queries)
    assert list(result) == ["score", "pred_label", "pred_score"]
    torch.testing.assert_close(result["score"], expected, rtol=0, atol=2e-7)
    assert_same_order(result["pred_label"], expected, 4e-7)
    assert torch.equal(result["pred_score"], result["score"].gather(1, result["pred_label"]))
    assert (result["pred_score"].diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("k", [1, 4, 31, 99])
def test_topk_k_is_aligned_sorted_and_agrees_with_all(name: str, k: int, vectors: Tensor) -> None:
    queries = torch.randn(6, 7)
    result = retriever_of(vectors, similarity_fn=name, topk=k).matching(queries)
    expected = dense(queries, vectors, name)
    assert {value.shape for value in result.values()} == {(6, min(k, 31))}
    assert result["pred_label"].dtype == torch.int64
    assert_same_order(result["pred_label"], expected, 1e-5)
    torch.testing.assert_close(
        result["pred_score"], expected.gather(1, result["pred_label"]), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(result["score"], result["pred_score"])


@pytest.mark.parametrize("name", SIMILARITIES)
def test_named_similarities_match_their_definition(name: str, vectors: Tensor) -> None:
    queries = torch.randn(6, 7)
    retriever = retriever_of(vectors, similarity_fn=name)
    expected = dense(queries.double(), vectors.double(), name).float()
    torch.testing.assert_close(retriever.matching(queries)["score"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        retriever.similarity_fn(queries, vectors), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("topk", [-1, 5])
def test_ties_come_in_ascending_order(topk: int) -> None:
    prototypes = torch.ones(9, 4)
    result = retriever_of(prototypes, topk=topk).matching(torch.ones(1, 4))
    assert result["pred_label"][0].tolist() == list(range(9 if topk == -1 else 5))


def test_zero_and_tiny_vectors_score_as_torch_clamps_them() -> None:
    prototypes = torch.stack([torch.zeros(4), torch.full((4,), 1e-10), torch.ones(4)])
    queries = torch.stack([torch.ones(4), torch.zeros(4)])
    score = retriever_of(prototypes).matching(queries)["score"]
    torch.testing.assert_close(score, original_scores(queries, prototypes), rtol=0, atol=2e-7)


def test_topk_all_never_holds_queries_by_prototypes_by_channels() -> None:
    queries, prototypes = torch.randn(64, 256), torch.randn(3000, 256)
    retriever = retriever_of(prototypes)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    with Watch():
        retriever.matching(queries)
    assert largest <= 4 * max(64 * 3000 * 2, 3000 * 256)  # the sort's int64 indices are the largest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_scored_in_single(dtype: torch.dtype) -> None:
    queries, prototypes = torch.randn(3, 16).to(dtype), torch.randn(20, 16).to(dtype)
    retriever = retriever_of(prototypes, image_encoder=encoder(16).to(dtype))
    score = retriever.matching(queries)["score"]
    assert score.dtype == torch.float32
    torch.testing.assert_close(
        score, original_scores(queries.float(), prototypes.float()), rtol=0, atol=2e-7
    )


@pytest.mark.parametrize("topk", [-1, 3])
def test_no_queries_and_no_prototypes(topk: int) -> None:
    assert retriever_of(torch.randn(4, 7), topk=topk).predict(torch.randn(0, 3, 4, 4)) == []
    sample = retriever_of(torch.empty(0, 7), topk=topk).predict(torch.randn(1, 3, 4, 4))[0]
    assert len(sample.pred_label) == len(sample.pred_score) == 0


# Callables


def negated_l1(queries: Tensor, prototypes: Tensor) -> Tensor:
    return -torch.cdist(queries, prototypes, p=1)


def softmax_over_prototypes(queries: Tensor, prototypes: Tensor) -> Tensor:
    return (queries @ prototypes.T).softmax(-1)


@pytest.mark.parametrize("topk", [-1, 6])
@pytest.mark.parametrize("rows", [None, 1, 7, 31, 100])
def test_callable_in_chunks_equals_callable_at_once(topk: int, rows: int | None, vectors) -> None:
    queries = torch.randn(4, 7)
    result = retriever_of(
        vectors, similarity_fn=negated_l1, topk=topk, similarity_chunk_rows=rows
    ).matching(queries)
    scores = negated_l1(queries, vectors)
    values, labels = scores.sort(descending=True, stable=True)
    k = 31 if topk == -1 else topk
    torch.testing.assert_close(result["pred_score"], values[:, :k])
    assert torch.equal(result["pred_label"], labels[:, :k])


def test_callable_in_chunks_keeps_ties_in_ascending_order() -> None:
    retriever = retriever_of(
        torch.ones(10, 7), similarity_fn=negated_l1, topk=4, similarity_chunk_rows=3
    )
    assert retriever.matching(torch.zeros(1, 7))["pred_label"].tolist() == [[0, 1, 2, 3]]


def test_callable_is_called_once_on_everything_unless_told_otherwise(vectors: Tensor) -> None:
    queries = torch.randn(4, 7)
    retriever = retriever_of(vectors, similarity_fn=softmax_over_prototypes)
    score = retriever.matching(queries)["score"]
    assert torch.equal(score, softmax_over_prototypes(queries, vectors))


@pytest.mark.parametrize("rows", [1, 8])
def test_callable_that_is_not_separable_is_refused_in_chunks(rows: int, vectors: Tensor) -> None:
    retriever = retriever_of(
        vectors, similarity_fn=softmax_over_prototypes, similarity_chunk_rows=rows
    )
    with pytest.raises(ValueError, match="similarity_chunk_rows needs a similarity_fn"):
        retriever.matching(torch.randn(4, 7))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda q, p: q.sum(-1), r"shape \(4, 31\); got \(4,\)"),
        (lambda q, p: None, "got NoneType"),
        (lambda q, p: q @ p.T * torch.nan, "must not return NaN"),
    ],
)
def test_callable_with_a_wrong_result_is_refused(function, message: str, vectors: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        retriever_of(vectors, similarity_fn=function).matching(torch.randn(4, 7))


# Samples


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


def test_fewer_samples_than_queries_is_an_error(images: Tensor, vectors: Tensor) -> None:
    with pytest.raises(ValueError, match="one sample per image, 5; got 2"):
        retriever_of(vectors).predict(images, [DataSample(), DataSample()])


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


def test_raw_images_of_every_kind_give_one_answer(vectors: Tensor) -> None:
    raw = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)
    array = raw.permute(1, 2, 0).numpy()
    retriever = retriever_of(
        vectors, data_preprocessor={"mean": [100.0] * 3, "std": [50.0] * 3}, topk=2
    )
    expected = retriever.predict(((raw.float() - 100) / 50)[None])[0]
    for kind in (raw, raw[None], [raw], array, array[None], Image.fromarray(array)):
        (sample,) = retriever.predict(kind)
        assert torch.equal(sample.pred_label, expected.pred_label)
        assert torch.equal(sample.pred_score, expected.pred_score)


# Modes


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


# Train and eval mode


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


# Construction


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"topk": 0}, ValueError, "topk must be at least 1, or -1 for all; got 0"),
        ({"topk": -5}, ValueError, "topk must be .* got -5"),
        ({"topk": 2.0}, TypeError, "topk must be an int; got float"),
        ({"topk": True}, TypeError, "topk must be an int; got bool"),
        ({"similarity_fn": "cosine"}, ValueError, "similarity_fn must be .* got 'cosine'"),
        ({"similarity_fn": None}, ValueError, "similarity_fn must be .* got None"),
        ({"head": nn.Identity()}, TypeError, "head must be .* got Identity"),
        ({"image_encoder": 3}, TypeError, "image_encoder must be .* got 3"),
        ({"image_encoder": nn.Identity}, TypeError, "image_encoder must be"),
        ({"data_preprocessor": 3}, TypeError, "data_preprocessor must be .* got int"),
        ({"data_preprocessor": {"means": [1]}}, TypeError, "data_preprocessor: .*means"),
        ({"autocast": True}, ValueError, "autocast must be .* got True"),
        ({"similarity_chunk_rows": 0}, ValueError, "similarity_chunk_rows must be .* got 0"),
        ({"pretrained": "no/such.pt"}, FileNotFoundError, "pretrained must be an existing file"),
    ],
)
def test_bad_arguments_are_named_at_once(options, error, message: str, vectors: Tensor) -> None:
    with pytest.raises(error, match=message):
        retriever_of(vectors, **options)


def test_topk_can_be_changed_and_is_checked_then_too(images: Tensor, vectors: Tensor) -> None:
    retriever = retriever_of(vectors)
    retriever.topk = 2
    assert len(retriever.predict(images)[0].pred_label) == 2
    with pytest.raises(ValueError, match="topk must be"):
        retriever.topk = 0


def test_bad_similarity_fn_does_not_recurse(vectors: Tensor) -> None:
    retriever = retriever_of(vectors)
    retriever.similarity = "nope"
    with pytest.raises(ValueError, match="got 'nope'"):
        _ = retriever.similarity_fn
    with pytest.raises(ValueError, match="got 'nope'"):
        retriever.matching(torch.randn(1, 7))


def test_encoder_without_parameters_works(vectors: Tensor) -> None:
    queries = torch.randn(4, 7)
    for image_encoder in (nn.Identity(), lambda x: x):
        retriever = retriever_of(vectors, image_encoder=image_encoder)
        torch.testing.assert_close(
            retriever.predict(queries)[0].pred_score, original_scores(queries, vectors)[0]
        )


def test_callers_dicts_are_never_changed(vectors: Tensor, tmp_path) -> None:
    torch.save(encoder().state_dict(), tmp_path / "weights.pt")
    options = {
        "data_preprocessor": {"mean": [1.0] * 3, "std": [2.0] * 3, "num_classes": 3},
        "train_cfg": {"augments": [{"type": "Mixup", "alpha": 0.5}], "probs": [0.5]},
        "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "weights.pt")},
        "head": {"type": "flashmatch.retriever.LossHead", "loss": torch.nn.functional.mse_loss},
    }
    before = copy.deepcopy(options)
    retriever_of(vectors, **options)
    assert options == before


def test_positional_order_is_the_originals(vectors: Tensor) -> None:
    retriever = ImageToImageRetriever(
        encoder(), vectors, None, None, "dot_product", None, None, 4, None
    )
    assert (retriever.topk, retriever.similarity) == (4, "dot_product")


@pytest.mark.parametrize("topk", [-1, 2])
def test_wrong_or_nonfinite_features_are_refused(topk: int, vectors: Tensor) -> None:
    retriever = retriever_of(vectors, topk=topk)
    with pytest.raises(ValueError, match=r"features must be a tensor \(N, C\)"):
        retriever.matching(torch.randn(2, 7, 1, 1))
    with pytest.raises(ValueError, match=r"features must have 7 channels, .* got 1"):
        retriever.matching(torch.randn(2, 1))
    with pytest.raises(ValueError, match="must be finite"):
        retriever.matching(torch.full((2, 7), torch.nan))


# Module behaviour


def test_prototypes_follow_the_module_before_and_after_preparation(vectors: Tensor) -> None:
    early, late = retriever_of(vectors).half(), retriever_of(vectors)
    early.prepare_prototype()
    late.prepare_prototype()
    late.half()
    assert early.prototype_vecs.dtype == late.prototype_vecs.dtype == torch.float16
    assert torch.equal(early.prototype_vecs, late.prototype_vecs)
    assert retriever_of(vectors.numpy().astype("float64")).matching(vectors)["score"].dtype == (
        torch.float32
    )


def test_state_dict_holds_the_encoder_only(vectors: Tensor) -> None:
    retriever = retriever_of(nn.Parameter(vectors))
    retriever.prepare_prototype()
    assert set(retriever.state_dict()) == {"image_encoder.1.weight", "image_encoder.1.bias"}
    assert len(list(retriever.parameters())) == 2
    retriever.prototype = nn.Parameter(vectors)
    assert len(list(retriever.parameters())) == 2


def test_channels_last_and_autocast(vectors: Tensor) -> None:
    seen = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 7, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.convolution(x).mean((-2, -1))

    retriever = retriever_of(
        vectors, image_encoder=Spy(), channels_last=True, autocast=torch.bfloat16, topk=2
    )
    assert retriever(torch.randn(2, 3, 8, 8)).dtype == torch.bfloat16
    assert len(retriever.predict(torch.randn(2, 3, 8, 8))) == 2
    assert seen == [True, True]
    assert retriever.prototype_vecs.dtype == torch.float32
