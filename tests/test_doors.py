"""What people hand in besides dense tensors and Python's ints: taken, or refused by name."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flashmatch import ImageToImageRetriever, Matches, PrototypeBank, topk, verify
from flashmatch.adapters.lightly import knn_accuracies, knn_classifier, knn_predict
from flashmatch.adapters.pytorch_metric_learning import KNN
from flashmatch.adapters.sentence_transformers import paraphrase_mining_embeddings, semantic_search
from flashmatch.kernels import tune
from flashmatch.kernels.contract.naming import named
from flashmatch.retriever.metrics import KnnAccuracy, RetrievalMetrics, hit_rate_at_k

Q, P = torch.randn(3, 8), torch.randn(50, 8)
Y = torch.arange(50) % 4


def freed(tensor: Tensor) -> Tensor:
    """As sharded training leaves parameters whose turn is over: torch would read past the end."""
    copy = tensor.clone()
    copy.untyped_storage().resize_(copy.untyped_storage().nbytes() - 1)
    return copy


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "coo": (Tensor.to_sparse, "torch.sparse_coo"),
    "csr": (Tensor.to_sparse_csr, "torch.sparse_csr"),
    "csc": (Tensor.to_sparse_csc, "torch.sparse_csc"),
    "bsr": (lambda t: t.to_sparse_bsr((1, 1)), "torch.sparse_bsr"),
    "mkldnn": (Tensor.to_mkldnn, "torch._mkldnn"),
    "nested": (lambda t: torch.nested.nested_tensor(list(t)), "a nested tensor"),
    "jagged": (
        lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
        "a nested tensor",
    ),
    "meta": (lambda t: t.to("meta"), "a tensor on meta"),
    "lazy": (lambda t: nn.UninitializedParameter(), "UninitializedParameter"),
    "freed": (freed, "a tensor whose storage was resized"),
}

DOORS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "topk queries": (lambda p: topk(p, P, 3), "queries"),
    "topk prototypes": (lambda p: topk(Q, p, 3), "prototypes"),
    "topk chunks": (lambda p: topk(Q, [P, p], 3), "prototypes[1]"),
    "bank": (PrototypeBank, "prototypes"),
    "bank.topk": (lambda p: PrototypeBank(P).topk(p, 3), "queries"),
    "bank.add": (lambda p: PrototypeBank(P).add(p), "prototypes"),
    "verify queries": (lambda p: verify(p, P, topk(P, P, 1)), "queries"),
    "verify prototypes": (lambda p: verify(Q, p, topk(Q, P, 3)), "prototypes"),
    "verify scores": (lambda p: verify(P, P, (p, topk(P, P, 8).indices)), "matches' scores"),
    "semantic_search": (lambda p: semantic_search(Q, p), "corpus_embeddings"),
    "semantic_search queries": (lambda p: semantic_search(p, P), "query_embeddings"),
    "paraphrase_mining": (paraphrase_mining_embeddings, "embeddings"),
    "knn_predict": (lambda p: knn_predict(p, P.T, Y, 4, 5), "feature"),
    "KNN": (lambda p: KNN()(Q, 3, p), "reference"),
    "KNN.train": (lambda p: KNN().train(p), "embeddings"),
    "extract_feat": (ImageToImageRetriever(lambda x: x, prototype=P).extract_feat, "inputs"),
    "predict": (ImageToImageRetriever(lambda x: x, prototype=P).predict, "inputs"),
    "matching": (lambda p: ImageToImageRetriever(lambda x: x, prototype=P).matching(p), "features"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, that such layouts are young
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("door", DOORS)
def test_what_has_no_dense_numbers_is_refused(door: str, layout: str) -> None:
    (call, name), (make, what) = DOORS[door], LAYOUTS[layout]
    expected = f"{name} must be a dense tensor on a device with data; got {what}"
    with pytest.raises(TypeError, match=f"^{re.escape(expected)}"):
        call(make(P))


@pytest.mark.parametrize("call", [topk, lambda *a, **m: PrototypeBank(a[1]).topk(a[0], a[2], **m)])
def test_masks_are_dense_too(call: Callable) -> None:
    for mask in (torch.ones(50).bool().to_sparse(), torch.ones(50, device="meta").bool()):
        with pytest.raises(TypeError, match=r"^mask must be a dense tensor on a device with data"):
            call(Q, P, 3, mask=mask)


def test_a_freed_parameter_and_an_empty_one() -> None:
    gone = nn.Parameter(P.clone())
    gone.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match=r"^prototypes must be a dense tensor"):
        topk(Q, gone, 3)
    assert topk(Q, P[:0], 0).indices.shape == (3, 0)


def test_expanded_and_strided_views_are_dense() -> None:
    for prototypes in (P[:1].expand(50, 8), P[::2], P.T.contiguous().T, P.flip(0)[5:]):
        assert verify(Q, prototypes, topk(Q, prototypes, 5))


INTEGERS: list[Callable[[int], object]] = [
    *(np.int64, np.uint8, np.array, torch.tensor),
    lambda n: torch.tensor(n, dtype=torch.int16),
]
TAKE_INTEGERS: dict[str, Callable[[object], object]] = {
    "topk": lambda n: topk(Q, P, n),
    "topk chunk_rows": lambda n: topk(Q, P, 3, chunk_rows=n),
    "bank": lambda n: PrototypeBank(P).topk(Q, n),
    "verify": lambda n: bool(verify(Q, P, topk(Q, P, 3), sample=n)),
    "semantic_search": lambda n: semantic_search(Q, P, top_k=n),
    "paraphrase_mining": lambda n: paraphrase_mining_embeddings(P, n, max_pairs=n, top_k=n),
    "knn_predict": lambda n: knn_predict(Q, P.T, Y, 4, knn_k=n),
    "knn_predict classes": lambda n: knn_predict(Q, P.T, Y % 3, n, knn_k=5),
    "knn_classifier": lambda n: knn_classifier(P, Y, Q, Y[:3], n, 0.1, num_classes=4),
    "knn_accuracies": lambda n: knn_accuracies(P, Y, Q, Y[:3], ks=[n], num_classes=4),
    "KNN": lambda n: KNN()(Q, n, P),
    "metrics": lambda n: RetrievalMetrics(ks=[n]).ks,
    "hit_rate_at_k": lambda n: hit_rate_at_k(torch.ones(2, 5).bool(), n),
    "KnnAccuracy": lambda n: KnnAccuracy(n, [n]).topk,
    "retriever": lambda n: ImageToImageRetriever(lambda x: x, prototype=P, topk=n).matching(Q),
}


def plain(value: object) -> object:
    """Lists of numbers, which compare."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (Matches, tuple, list)):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value


@pytest.mark.parametrize("door", TAKE_INTEGERS)
@pytest.mark.parametrize("make", INTEGERS)
def test_whatever_has_an_index_is_an_integer(door: str, make: Callable[[int], object]) -> None:
    call = TAKE_INTEGERS[door]
    assert plain(call(make(3))) == plain(call(3))


@pytest.mark.parametrize("door", TAKE_INTEGERS)
@pytest.mark.parametrize(
    "value", [True, np.True_, torch.tensor(True), 3.0, "3", torch.tensor([3]), np.array([3])]
)
def test_bools_and_other_numbers_are_none(door: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"must be an int; got {type(value).__name__}"):
        TAKE_INTEGERS[door](value)


@pytest.mark.parametrize(
    "make",
    [
        lambda device: PrototypeBank(P, device=device),
        lambda device: KNN(device=device),
        lambda device: tune(device),
    ],
    ids=["bank", "KNN", "tune"],
)
@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", torch.device("meta"), "mps:7", ""])
def test_devices_that_are_not_there(make: Callable, device: object) -> None:
    expected = r"^device must be a device that torch has here, such as 'cpu'"
    with pytest.raises(ValueError, match=f"{expected}.*; got {re.escape(repr(str(device)))}: .+"):
        make(device)


def test_a_device_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"device must be a torch.device .* name; got float"):
        PrototypeBank(P, device=0.5)
    bank = PrototypeBank(P)
    bank.save(tmp_path / "bank.safetensors")
    with pytest.raises(ValueError, match=r"^device must be a device that torch has"):
        PrototypeBank.load(tmp_path / "bank.safetensors", "gpu")


BAD = P.clone()
BAD[4] = torch.nan
RENAMED: dict[str, tuple[Callable[[], object], str]] = {
    "corpus": (lambda: semantic_search(Q, BAD), "corpus_embeddings must be finite; got NaN"),
    "queries": (lambda: semantic_search(BAD, P), "query_embeddings must be finite; got NaN"),
    "distances": (
        lambda: semantic_search(Q, BAD, score_function="euclidean"),
        "corpus_embeddings must be finite, with squares that add up to what float64 can hold; got",
    ),
    "from queries": (
        lambda: semantic_search(BAD, P, score_function="euclidean"),
        "query_embeddings must be finite, with squares",
    ),
    "of a bank": (
        lambda: semantic_search(BAD, PrototypeBank(P)),
        "query_embeddings must be finite; got NaN",
    ),
    "widths": (
        lambda: semantic_search(Q[:, :4], P),
        "query_embeddings and corpus_embeddings must have equally many channels; got 4 and 8",
    ),
    "mining": (
        lambda: paraphrase_mining_embeddings(BAD),
        "embeddings must be finite; got NaN, inf or a norm beyond fp64 in row 4",
    ),
    "knn_k": (
        lambda: knn_predict(Q, P.T, Y, 4, knn_k=200),
        "knn_k must be between 0 and 50, the rows of feature_bank; got 200",
    ),
    "knn_k of another kind": (
        lambda: knn_predict(Q, P.T, Y, 4, knn_k="5"),
        "knn_k must be an int; got str",
    ),
    "knn_t": (lambda: knn_predict(Q, P.T, Y, 4, 5, 0.0), "knn_t must be above 0; got 0.0"),
    "feature_bank": (lambda: knn_predict(Q, BAD.T, Y, 4, 5), "feature_bank must be finite; got"),
    "feature": (lambda: knn_predict(BAD, P.T, Y, 4, 5), "feature must be finite; got NaN"),
    "feature_labels": (
        lambda: knn_predict(Q, P.T, Y, 3, 5),
        "feature_labels must be at least 0 and below 3; got 0 to 3",
    ),
    "ks": (
        lambda: knn_accuracies(P, Y, Q, Y[:3], ks=[5, 60], num_classes=4),
        "ks must be between 0 and 50, the rows of train_features; got 60",
    ),
    "k": (
        lambda: knn_classifier(P, Y, Q, Y[:3], 60, 0.1, num_classes=4),
        "k must be between 0 and 50, the rows of train_features; got 60",
    ),
    "test_labels": (
        lambda: knn_accuracies(P, Y, Q, Y[:3] + 3, ks=[5], num_classes=4),
        "test_labels must be at least 0 and below 4; got 3 to 5",
    ),
    "labels of another kind": (
        lambda: knn_predict(Q, P.T, ["cat"] * 50, 4, 5),
        "feature_labels must be integers; got ['cat', 'cat'",
    ),
    "ragged labels": (
        lambda: knn_accuracies(P, [[0], [1, 2]], Q, Y[:3], ks=[5], num_classes=4),
        "train_labels must be integers; got [[0], [1, 2]]",
    ),
    "sparse labels": (
        lambda: knn_accuracies(P, Y, Q, Y[:3].to_sparse(), ks=[5], num_classes=4),
        "test_labels must be a dense tensor on a device with data; got torch.sparse_coo",
    ),
    "reference": (
        lambda: KNN()(Q, 3, BAD),
        'reference must be finite (or pass nonfinite="exclude"); got NaN',
    ),
    "embeddings": (
        lambda: KNN().train(BAD),
        'embeddings must be finite (or pass nonfinite="exclude"); got NaN',
    ),
    "filename": (
        lambda: KNN().load("nowhere.safetensors"),
        "filename must be an existing file; got 'nowhere.safetensors'",
    ),
    "features": (
        lambda: ImageToImageRetriever(lambda x: x, prototype=P, topk=2).matching(BAD),
        "features must be finite; got NaN",
    ),
    "features, all scores": (
        lambda: ImageToImageRetriever(lambda x: x, prototype=P).matching(BAD),
        "features must be finite; got NaN",
    ),
}


@pytest.mark.parametrize("case", RENAMED)
def test_errors_name_the_arguments_of_the_function_that_was_called(case: str) -> None:
    call, expected = RENAMED[case]
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=f"^{re.escape(expected)}"):
        call()


def test_named_leaves_values_and_other_errors_alone() -> None:
    with pytest.raises(ValueError, match=r"^feature must be k; got queries and k$"):  # noqa: SIM117
        with named(queries="feature", got="x"):
            raise ValueError("queries must be k; got queries and k")
    with pytest.raises(ValueError, match=r"^queries$"), named(queries="feature"):
        raise ValueError("queries")
    with pytest.raises(KeyError, match="queries must"), named(queries="feature"):
        raise KeyError("queries must be there; got none")
