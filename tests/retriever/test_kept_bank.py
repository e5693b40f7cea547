"""The retriever's bank: the results of topk, made once, and anew after every change."""

import copy
import gc
import pickle
import threading
import time
import weakref

import pytest
import torch
from programs import in_threads
from torch import Tensor, nn

import flashmatch
from flashmatch.kernels import PrototypeBank
from flashmatch.kernels.concurrency.turn import Turn
from flashmatch.retriever import ImageToImageRetriever, kept_bank
from flashmatch.retriever.similarity import METRICS

CHANNELS, K = 128, 3
ROWS = kept_bank.BANK_COORDINATES // CHANNELS + 37
NAMED = pytest.mark.parametrize("name", list(METRICS))


def retriever_of(prototype, name="cosine_similarity", **options) -> ImageToImageRetriever:
    options = {"topk": K, "progress": False, **options}
    return ImageToImageRetriever(nn.Identity(), prototype, similarity_fn=name, **options)


def assert_current(retriever: ImageToImageRetriever, queries: Tensor) -> None:
    """Predictions are topk's on the vectors as they are now, bit for bit."""
    name = retriever.similarity
    assert isinstance(name, str)
    samples = retriever.predict(queries)
    vectors = retriever.prototype_vecs.detach().clone()
    scores, indices = flashmatch.topk(queries, vectors, K, metric=METRICS[name])
    if name == "euclidean_distance":
        scores = 0 - (-scores).sqrt()
    assert torch.equal(torch.stack([sample.pred_label for sample in samples]), indices)
    assert torch.equal(torch.stack([sample.pred_score for sample in samples]), scores)


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(ROWS, CHANNELS)


@pytest.fixture
def queries() -> Tensor:
    return torch.randn(6, CHANNELS)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[PrototypeBank]:
    """Every bank the retriever makes."""
    banks = []

    def make(*args, **options) -> PrototypeBank:
        assert not torch.is_inference_mode_enabled()
        banks.append(PrototypeBank(*args, **options))
        return banks[-1]

    monkeypatch.setattr(kept_bank, "PrototypeBank", make)
    return banks


# Results


KINDS = ["tensor", "parameter", "array", "double", "half", "strided", ".pt", ".safetensors",
         "loader"]  # fmt: skip


def kind_of(kind: str, vectors: Tensor, folder):
    if kind.startswith("."):
        retriever_of(vectors).dump_prototype(folder / f"gallery{kind}")
        return folder / f"gallery{kind}"
    return {
        "tensor": lambda: vectors,
        "parameter": lambda: nn.Parameter(vectors),
        "array": vectors.numpy,
        "double": vectors.double,
        "half": vectors.half,
        "strided": lambda: vectors.T.contiguous().T,
        "loader": lambda: torch.utils.data.DataLoader(vectors, batch_size=512),  # pyright: ignore
    }[kind]()


@pytest.mark.parametrize("kind", KINDS)
@NAMED
def test_results_are_those_of_topk(kind: str, name: str, vectors, queries, made, tmp_path) -> None:
    retriever = retriever_of(kind_of(kind, vectors, tmp_path), name)
    for _ in range(2):
        assert_current(retriever, queries)
    assert len(made) == 1
    assert made[0].stats.queries == 2 * len(queries)


@NAMED
def test_ties_duplicates_and_zeros_are_settled_as_by_topk(name: str, vectors, queries) -> None:
    vectors[100:300], vectors[300:400] = vectors[:200].clone(), 0
    queries = torch.cat([vectors[:4], torch.zeros(1, CHANNELS), queries])
    assert_current(retriever_of(vectors, name), queries)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_results_in_other_dtypes(dtype: torch.dtype, vectors, queries, made) -> None:
    retriever = retriever_of(vectors)
    for _ in range(2):
        assert_current(retriever, queries)
    retriever.to(dtype)
    assert_current(retriever, queries.to(dtype))
    assert [bank.dtype for bank in made] == [torch.float32, dtype]


def test_nonfinite_features_and_vectors_are_refused(vectors, queries) -> None:
    retriever = retriever_of(vectors)
    with pytest.raises(ValueError, match="features must be finite"):
        retriever.matching(queries * torch.inf)
    vectors[4000, 3] = torch.nan
    for _ in range(3):
        with pytest.raises(ValueError, match="prototype must be finite"):
            retriever.matching(queries)


# Where no bank serves


def test_callables_and_all_matches_need_no_bank(vectors, queries, made) -> None:
    retriever_of(vectors, topk=-1).predict(queries)
    retriever_of(vectors, lambda q, p: q @ p.T).predict(queries)
    assert made == []


def test_small_galleries_need_no_bank(vectors, queries, made) -> None:
    assert_current(retriever_of(vectors[: ROWS - 38]), queries)
    assert made == []


@NAMED
def test_gradients_are_those_of_topk(name: str, vectors, queries, made) -> None:
    retriever = retriever_of(vectors, name)
    retriever.prepare_prototype()
    queries[0] = vectors[7]  # where a distance has no slope
    retriever.prototype_vecs = nn.Parameter(vectors)
    inputs = queries.clone().requires_grad_()
    retriever.matching(inputs)["score"].sum().backward()
    assert made == []
    for gradient in (inputs.grad, retriever.prototype_vecs.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
    assert_current(retriever, queries)  # without gradients
    assert len(made) == 1


def test_a_write_before_the_backward_pass_is_an_error_still(vectors, queries) -> None:
    retriever = retriever_of(vectors)
    retriever.predict(queries)
    score = retriever.matching(queries.requires_grad_())["score"]
    retriever.prototype_vecs.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        score.sum().backward()


def test_inference_tensors_are_searched_without_a_bank(vectors, queries, made) -> None:
    with torch.inference_mode():
        retriever = retriever_of(vectors.clone())
        assert_current(retriever, queries)
        retriever.prototype_vecs.neg_()
        assert_current(retriever, queries)
    assert_current(retriever, queries)
    assert made == []


def test_transforms_and_compilers_see_topk(vectors, queries, made) -> None:
    retriever = retriever_of(vectors)
    expected = retriever.matching(queries)["score"]
    assert len(made) == 1

    def score(features: Tensor) -> Tensor:
        return retriever.matching(features)["score"]

    batch = queries.view(2, 3, CHANNELS)
    assert torch.equal(torch.func.vmap(score)(batch).flatten(0, 1), expected)
    compiled = torch.compile(score, fullgraph=True, backend="eager")
    assert torch.equal(compiled(queries), expected)
    assert made[0].stats.queries == len(queries)


# Changes, all that torch counts and those that are announced


def assign(retriever: ImageToImageRetriever) -> None:
    retriever.prototype_vecs = retriever.prototype_vecs.flip(0)


def assign_an_alias(retriever: ImageToImageRetriever) -> None:
    vectors = retriever.prototype_vecs.data
    vectors[::CHANNELS, 1] *= 100
    retriever.prototype_vecs = vectors.data


def assign_prototype(retriever: ImageToImageRetriever) -> None:
    retriever.prototype = retriever.prototype_vecs.flip(0)
    retriever.prepare_prototype()


def write_rows(retriever: ImageToImageRetriever) -> None:
    retriever.prototype_vecs[5:9] = -retriever.prototype_vecs[5:9]


def write_in_inference_mode(retriever: ImageToImageRetriever) -> None:
    with torch.inference_mode():
        retriever.prototype_vecs.neg_()


def write_to_the_given_tensor(retriever: ImageToImageRetriever) -> None:
    retriever.prototype[100] = -retriever.prototype[100]


def write_one_entry(retriever: ImageToImageRetriever) -> None:
    retriever.prototype_vecs[100, 1] *= -100


def write_through_data_and_prepare(retriever: ImageToImageRetriever) -> None:
    retriever.prototype_vecs.data[5:9] *= -1
    retriever.prepare_prototype()


def write_through_numpy_and_prepare(retriever: ImageToImageRetriever) -> None:
    retriever.prototype_vecs.numpy()[:] *= -1
    retriever.prepare_prototype()


def write_through_data_and_forget(retriever: ImageToImageRetriever) -> None:
    retriever.prototype_vecs.data[::CHANNELS, 1] *= 100
    retriever._bank.forget()


def set_data(retriever: ImageToImageRetriever) -> None:
    retriever.prototype_vecs.data = retriever.prototype_vecs.flip(0)


def set_data_with_other_strides(retriever: ImageToImageRetriever) -> None:
    rows = retriever.prototype_vecs
    rows.data = rows.view(CHANNELS, ROWS).T


def resize(retriever: ImageToImageRetriever) -> None:
    retriever.prototype_vecs.resize_(ROWS - 20, CHANNELS)


def load_as_parameter(retriever: ImageToImageRetriever) -> None:
    del retriever.prototype_vecs
    retriever.prototype_vecs = nn.Parameter(torch.randn(ROWS, CHANNELS))
    retriever.predict(torch.randn(2, CHANNELS))
    retriever.load_state_dict({"prototype_vecs": torch.randn(ROWS, CHANNELS)})


def load_assigning(retriever: ImageToImageRetriever) -> None:
    load_as_parameter(retriever)
    retriever.predict(torch.randn(2, CHANNELS))
    state = {"prototype_vecs": torch.randn(ROWS, CHANNELS)}
    retriever.load_state_dict(state, assign=True)


def convert_parameter_and_back(retriever: ImageToImageRetriever) -> None:
    load_as_parameter(retriever)
    retriever.predict(torch.randn(2, CHANNELS))
    retriever.half().float()


def step_of_an_optimizer(retriever: ImageToImageRetriever) -> None:
    load_as_parameter(retriever)
    retriever.predict(torch.randn(2, CHANNELS))
    optimizer = torch.optim.SGD([retriever.prototype_vecs], lr=1)
    retriever.matching(torch.randn(50, CHANNELS))["score"].sum().backward()
    optimizer.step()


def other_similarity(retriever: ImageToImageRetriever) -> None:
    retriever.similarity = "dot_product"


def convert_and_back(retriever: ImageToImageRetriever) -> None:
    retriever.to(torch.float16).to(torch.float32)


CHANGES = [assign, assign_an_alias, assign_prototype, write_rows, write_one_entry,
           write_in_inference_mode, write_to_the_given_tensor, write_through_data_and_prepare,
           write_through_numpy_and_prepare, write_through_data_and_forget, set_data,
           set_data_with_other_strides, resize, load_as_parameter, load_assigning,
           convert_and_back, convert_parameter_and_back, step_of_an_optimizer, other_similarity,
           nn.Module.double, nn.Module.half, nn.Module.share_memory]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_no_change_is_missed(change, vectors, queries, made) -> None:
    retriever = retriever_of(vectors)
    retriever.predict(queries)
    retriever.predict(queries)
    (before,) = made
    change(retriever)
    queries = torch.cat(
        [queries, retriever.prototype_vecs[[5, CHANNELS, 100, -1]].detach().float()]
    )
    for _ in range(3):
        assert_current(retriever, queries)
    assert before.stats.queries == 12
    assert made[-1].stats.queries >= 2 * len(queries)  # after a change they may wait for a second


# When a bank is made


def test_a_bank_serves_all_predictions(vectors, queries, made) -> None:
    retriever = retriever_of(vectors)
    for _ in range(4):
        with torch.inference_mode():
            retriever.predict(queries)
        retriever.predict(queries)
        retriever.matching(queries)
    assert len(made) == 1
    assert made[0].stats.queries == 12 * len(queries)


def test_vectors_that_stay_what_they_are_keep_their_bank(vectors, queries, made) -> None:
    retriever = retriever_of(vectors)
    retriever.predict(queries)
    retriever.to("cpu", torch.float32).train()
    retriever.prototype_vecs = retriever.prototype_vecs
    retriever.topk = K + 1
    retriever.predict(queries)
    retriever.topk = K
    assert_current(retriever, queries)
    assert len(made) == 1


def test_vectors_that_change_after_each_search_have_no_bank(vectors, queries, made) -> None:
    retriever = retriever_of(vectors)
    for _ in range(4):
        assert_current(retriever, queries)
        retriever.prototype_vecs.neg_()
    assert len(made) == 1  # of the first, which nobody could know to change
    assert_current(retriever, queries)
    assert_current(retriever, queries)
    assert len(made) == 2


def test_two_threads_make_one_bank(vectors, queries, made, monkeypatch) -> None:
    make = kept_bank.PrototypeBank

    def slowly(*args, **options) -> PrototypeBank:
        time.sleep(0.1)
        return make(*args, **options)

    monkeypatch.setattr(kept_bank, "PrototypeBank", slowly)
    retriever = retriever_of(vectors).eval()
    barrier = threading.Barrier(2)

    def predict(_: int) -> None:
        barrier.wait()
        assert_current(retriever, queries)

    in_threads(predict, range(2))
    assert len(made) == 1


def test_threads_that_are_let_in_at_once_mix_nothing_up(vectors, queries, monkeypatch) -> None:
    """A turn may let in two: a bank belongs to the prototypes that it was made of."""
    monkeypatch.setattr(Turn, "__enter__", lambda _: None)
    monkeypatch.setattr(Turn, "__exit__", lambda *_: None)
    make, is_making, may_end = kept_bank.PrototypeBank, threading.Event(), threading.Event()

    def slowly(prototypes: Tensor, **options) -> PrototypeBank:
        if prototypes is vectors:
            is_making.set()
            may_end.wait(60)
        return make(prototypes, **options)

    monkeypatch.setattr(kept_bank, "PrototypeBank", slowly)
    keeper, others = kept_bank.KeptBank(), vectors.neg()
    thread = threading.Thread(target=lambda: keeper.topk(queries, vectors, K, metric="dot"))
    thread.start()
    is_making.wait(60)
    expected = flashmatch.topk(queries, others, K, metric="dot")
    for _ in range(3):
        assert torch.equal(keeper.topk(queries, others, K, metric="dot").indices, expected.indices)
    may_end.set()
    thread.join(60)
    assert torch.equal(keeper.topk(queries, others, K, metric="dot").indices, expected.indices)


# What it costs, and what it leaves alone


def test_a_bank_holds_a_byte_per_coordinate_and_no_vectors(made) -> None:
    vectors, queries = torch.randn(8192, 512), torch.randn(2, 512)
    retriever = retriever_of(vectors)
    retriever.predict(queries)
    assert made[0].nbytes <= 1.1 * vectors.numel()
    (chunk,) = made[0]._state.collection.rows.chunks
    assert chunk.data_ptr() == retriever.prototype_vecs.data_ptr() == vectors.data_ptr()


@pytest.mark.parametrize("change", [assign, nn.Module.half])
def test_old_vectors_and_their_bank_are_let_go(change, vectors, queries, made) -> None:
    retriever = retriever_of(torch.utils.data.DataLoader(vectors, batch_size=512))  # pyright: ignore
    for _ in range(2):
        retriever.predict(queries)
    bank = weakref.ref(made.pop())
    gc.disable()
    try:
        assert bank() is not None
        change(retriever)
        assert bank() is None
        retriever.predict(queries.to(retriever.prototype_vecs.dtype))
        bank, held = weakref.ref(made.pop()), retriever.prototype_vecs
        del retriever
        assert held.isfinite().all()
        assert bank() is None
    finally:
        gc.enable()


def test_copies_pickles_and_state_leave_the_bank_out(vectors, queries, made) -> None:
    retriever = retriever_of(vectors)
    before = len(pickle.dumps(retriever)), set(vars(retriever)), list(retriever.state_dict())
    assert_current(retriever, queries)
    size = len(pickle.dumps(retriever))
    assert set(vars(retriever)) == before[1]
    assert list(retriever.state_dict()) == before[2] == []
    assert size - before[0] < 1.05 * 2 * vectors.nbytes
    for twin in (copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever))):
        assert twin._bank is not retriever._bank
        twin.prototype_vecs.neg_()
        assert_current(twin, queries)
        assert_current(retriever, queries)
    assert len(made) == 3
