"""Arguments and what may be set: checked at once, never changed, following the module."""

import copy

import pytest
import torch
from retrieved import encoder, original_scores, retriever_of
from torch import Tensor, nn

from flashmatch.retriever import ImageToImageRetriever


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


def test_a_notebook_shows_what_a_retriever_holds(vectors: Tensor) -> None:
    retriever = retriever_of(vectors, topk=5)
    before = retriever._repr_html_()
    assert "ImageToImageRetriever" in before
    for name, value in (("prototypes", "not prepared yet"), ("topk", "5"), ("device", "cpu")):
        assert f"<th>{name}</th><td>{value}</td>" in before
    assert not retriever.prototype_inited  # looking at it prepares nothing
    retriever.prepare_prototype()
    retriever.topk = -1
    after = retriever._repr_html_()
    for name, value in (
        ("prototypes", "31"),
        ("width", "7"),
        ("similarity", "cosine_similarity"),
        ("topk", "all"),
        ("encoder", type(retriever.image_encoder).__name__),
    ):
        assert f"<th>{name}</th><td>{value}</td>" in after
    retriever.similarity = lambda queries, prototypes: queries @ prototypes.T
    assert "&lt;lambda&gt;" in retriever._repr_html_()
