"""topk and PrototypeBank inside what torch offers: compile, export, torch.func, modes, workers."""

import copy
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from problems import Problem, assert_exact
from programs import in_threads
from screens import CODED, needs_inductor
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.export import Dim

from flashmatch import Matches, PrototypeBank, topk, within
from flashmatch.kernels.operators import topk_operator as operators

C, K = 16, 4
Search = Callable[[Tensor], Matches]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PROTOTYPES = drawn(900, C)
QUERIES = drawn(7, C, seed=1)


def float_bank() -> PrototypeBank:
    return PrototypeBank(PROTOTYPES, screen="float")


def coded_bank() -> PrototypeBank:
    """Large enough for its codes to be used."""
    return PrototypeBank(torch.cat([PROTOTYPES, drawn(140_000, C, seed=2)]), screen=CODED)


def changed_bank() -> PrototypeBank:
    """Positions are not rows, and some rows never match."""
    rows = PROTOTYPES.clone()
    rows[11] = torch.nan
    bank = PrototypeBank(rows, nonfinite="exclude")
    bank.remove([0, 5, 600])
    return bank


@pytest.fixture(scope="module", params=[None, float_bank, coded_bank, changed_bank])
def search(request: pytest.FixtureRequest) -> Search:
    """(Q, C) -> Matches, by topk or by a bank."""
    if request.param is None:
        return lambda queries: topk(queries, PROTOTYPES, K)
    bank = request.param()
    return lambda queries: bank.topk(queries, K)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """The same bits: scores here are never NaN, nor -0."""
    assert actual[0].dtype == torch.float32
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


def gradient(loss: Callable[[Tensor], Tensor], queries: Tensor) -> Tensor:
    queries = queries.clone().requires_grad_()
    return torch.autograd.grad(loss(queries), queries)[0]


class Encoded(nn.Module):
    """An encoder, then a search; returns Matches."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, C)
        self.search = search

    def forward(self, x: Tensor) -> Matches:
        return self.search(self.encoder(x))


class Gallery(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, C)
        self.register_buffer("prototypes", PROTOTYPES)

    def forward(self, x: Tensor) -> Matches:
        return topk(self.encoder(x), self.get_buffer("prototypes"), K)


# --- torch.compile


def test_compiled_queries_of_any_number_compile_once(
    search: Search, request: pytest.FixtureRequest
) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(search, fullgraph=True, dynamic=True, backend=counter)
    renumbered = request.node.callspec.params["search"] is changed_bank  # once, at the first search
    for count in (5, 7, 13, 101):
        queries = drawn(count, C, seed=count)
        assert_same(compiled(queries), search(queries))
    assert counter.frame_count == 1 + renumbered


def test_compiled_prototypes_of_any_number_compile_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda q, p, m: topk(q, p, K, mask=m, nonfinite="exclude"),
        fullgraph=True,
        dynamic=True,
        backend=counter,
    )
    for count, rows in ((5, 40), (7, 55), (31, 211), (2, 1009)):
        queries, prototypes = drawn(count, C), drawn(rows, C, seed=rows)
        mask = drawn(count, rows) > 0
        expected = topk(queries, prototypes, K, mask=mask)
        assert_same(compiled(queries, prototypes, mask), expected)
    assert counter.frame_count == 1


def test_a_search_within_a_threshold_breaks_the_graph_and_is_not_traced() -> None:
    """Its frames are the doors' and what checks arguments: some 25, not the search's 60 more."""
    counters.clear()
    compiled = torch.compile(lambda q: within(q * 2, PROTOTYPES, 0.1).scores * 2, backend="eager")
    queries = drawn(5, C)
    assert torch.equal(compiled(queries), within(queries * 2, PROTOTYPES, 0.1).scores * 2)
    assert 0 < counters["frames"]["total"] < 50


def test_without_dynamic_the_second_shape_makes_it_dynamic() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda q, p: topk(q, p, K, metric="l2"), fullgraph=True, backend=counter
    )
    for count, rows in ((5, 40), (7, 55), (31, 211), (2, 1009)):
        queries, prototypes = drawn(count, C), drawn(rows, C, seed=rows)
        assert_same(compiled(queries, prototypes), topk(queries, prototypes, K, metric="l2"))
    assert counter.frame_count == 2


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=needs_inductor)])
def test_compiled_module_has_the_gradients_of_eager(search: Search, backend: str) -> None:
    module, x = Encoded(search), drawn(7, 8)

    def gradients(forward: Callable[[Tensor], Matches]) -> tuple[Tensor, ...]:
        scores, indices = forward(x)
        assert not indices.requires_grad
        loss = (scores * torch.arange(K)).sum()
        return torch.autograd.grad(loss, tuple(module.encoder.parameters()))

    expected = gradients(module)
    actual = gradients(torch.compile(module, fullgraph=True, backend=backend))
    torch.testing.assert_close(actual, expected)


def test_a_compiled_bank_may_change() -> None:
    """What it recompiles for is what its rows lie in, a bounded number of times."""
    bank = PrototypeBank(PROTOTYPES)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda q: bank.topk(q, K), fullgraph=True, dynamic=True, backend=counter
    )
    assert_same(compiled(QUERIES), bank.topk(QUERIES, K))
    for i in range(3):
        bank.add(QUERIES[i : i + 1].repeat(2, 1))
        assert_same(compiled(QUERIES), bank.topk(QUERIES, K))
        bank.remove(2 * i)
        assert_same(compiled(QUERIES), bank.topk(QUERIES, K))
    before = counter.frame_count
    for i in range(3, 7):
        bank.add(QUERIES[i : i + 1])
        bank.remove(2 * i)
        assert_same(compiled(QUERIES), bank.topk(QUERIES, K))
    assert counter.frame_count - before <= 1


def test_a_compiled_bank_counts_and_refuses_as_ever() -> None:
    bank = PrototypeBank(PROTOTYPES)
    compiled = torch.compile(lambda q: bank.topk(q, K), fullgraph=True, backend="aot_eager")
    compiled(QUERIES)
    assert bank.stats.queries == len(QUERIES)
    bad = QUERIES.clone()
    bad[3, 1] = torch.inf
    with pytest.raises(ValueError, match=r"queries must be finite.* row 3"):
        compiled(bad)


def test_two_banks_through_one_compiled_function() -> None:
    banks = [PrototypeBank(drawn(300, C, seed=s), metric="dot") for s in (1, 2)]
    compiled = torch.compile(lambda b, q: b.topk(q, K), fullgraph=True, backend="aot_eager")
    for bank in banks * 2:
        assert_same(compiled(bank, QUERIES), bank.topk(QUERIES, K))


def test_a_graph_outlives_its_bank_with_an_error() -> None:
    bank = PrototypeBank(PROTOTYPES)
    arguments = (QUERIES, [PROTOTYPES], K, "cosine", None, None, False, bank._state.handle)
    assert_same(operators.topk_operator(*arguments), bank.topk(QUERIES, K))
    del bank
    with pytest.raises(RuntimeError, match="bank"):
        operators.topk_operator(*arguments)


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))]
)
def test_a_copy_of_a_bank_is_searched_itself(clone: Callable) -> None:
    bank = PrototypeBank(PROTOTYPES)
    other = clone(bank)
    assert other._state.handle != bank._state.handle
    compiled = torch.compile(lambda b, q: b.topk(q, K), fullgraph=True, backend="aot_eager")
    assert_same(compiled(other, QUERIES), compiled(bank, QUERIES))
    del bank
    assert_same(compiled(other, QUERIES), topk(QUERIES, PROTOTYPES, K))


def test_compiled_vmap(search: Search) -> None:
    batched = drawn(3, 5, C)
    compiled = torch.compile(torch.vmap(search), fullgraph=True, backend="aot_eager")
    assert_same(compiled(batched), torch.vmap(search)(batched))


def test_compiled_torch_func_grad_is_refused() -> None:
    """A limit of torch: differentiate inside with autograd, or leave torch.func.grad eager."""
    compiled = torch.compile(
        torch.func.grad(lambda q: topk(q, PROTOTYPES, K).scores.sum()),
        fullgraph=True,
        backend="aot_eager",
    )
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(QUERIES)


# --- torch.export


def exported(module: nn.Module, strict: bool) -> Callable[[Tensor], Matches]:
    """Saved and loaded, with a dynamic batch."""
    program = torch.export.export(
        module, (drawn(5, 8),), dynamic_shapes=({0: Dim("batch")},), strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("strict", [False, True])
def test_exported_module_with_a_dynamic_batch(strict: bool) -> None:
    module = Gallery()
    program = exported(module, strict)
    for count in (1, 5, 23):
        x = drawn(count, 8, seed=count)
        found = program(x)
        assert isinstance(found, Matches)
        assert_same(found, module(x))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_prototypes_of_any_number(strict: bool) -> None:
    class Search(nn.Module):
        def forward(self, queries: Tensor, prototypes: Tensor) -> Matches:
            return topk(queries, prototypes, K)

    sizes = ({0: Dim("q")}, {0: Dim("p", min=K, max=2**31)})
    program = torch.export.export(
        Search(), (QUERIES, PROTOTYPES), dynamic_shapes=sizes, strict=strict
    ).module()
    for count, rows in ((1, K), (9, 101)):
        queries, prototypes = drawn(count, C), drawn(rows, C, seed=rows)
        assert_same(program(queries, prototypes), topk(queries, prototypes, K))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_exported_bank_keeps_the_vectors(search: Search, strict: bool) -> None:
    """The program needs no bank, and leaves none changed."""
    module = Encoded(search)
    program = exported(module, strict)
    x = drawn(9, 8)
    assert_same(program(x), module(x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_exported_bank_with_a_mask(strict: bool) -> None:
    bank = changed_bank()
    mask = torch.arange(len(bank)) % 3 == 0
    module = Encoded(partial(bank.topk, k=K, mask=mask))
    program = exported(module, strict)
    x = drawn(9, 8)
    assert_same(program(x), module(x))
    assert program(x).indices.remainder(3).eq(0).all()


# --- torch.func


def test_vmap_over_queries(search: Search) -> None:
    batched = drawn(3, 5, C)
    for in_dim in (0, 1, 2):
        actual = torch.vmap(search, in_dims=in_dim)(batched.movedim(0, in_dim))
        for b in range(3):
            assert_same((actual.scores[b], actual.indices[b]), search(batched[b]))


def test_vmap_over_prototypes_and_queries_nested() -> None:
    queries, prototypes = drawn(2, 3, 5, C), drawn(2, 40, C)
    actual = torch.vmap(lambda q, p: torch.vmap(lambda q: topk(q, p, K))(q))(queries, prototypes)
    for a in range(2):
        for b in range(3):
            expected = topk(queries[a, b], prototypes[a], K)
            assert_same((actual.scores[a, b], actual.indices[a, b]), expected)


def test_vmap_of_what_is_not_batched(search: Search) -> None:
    actual = torch.vmap(lambda x: search(QUERIES).scores + x)(torch.tensor([0.0, 1.0]))
    expected = search(QUERIES).scores
    assert torch.equal(actual, torch.stack([expected, expected + 1]))


@pytest.mark.parametrize("mask_dim", [None, 0])
@pytest.mark.parametrize("make", [None, changed_bank])
def test_vmap_with_a_mask(make: Callable[[], PrototypeBank] | None, mask_dim: int | None) -> None:
    search = make().topk if make else partial(topk, prototypes=PROTOTYPES[3:])
    batched, masks = drawn(3, 5, C), drawn(3, 5, 897) > 0
    mask = masks if mask_dim == 0 else masks[0]
    actual = torch.vmap(lambda q, m: search(q, k=K, mask=m), in_dims=(0, mask_dim))(batched, mask)
    for b in range(3):
        expected = search(batched[b], k=K, mask=mask[b] if mask_dim == 0 else mask)
        assert_same((actual.scores[b], actual.indices[b]), expected)


def test_func_gradients_are_those_of_autograd(search: Search) -> None:
    weights = drawn(len(QUERIES), K)

    def loss(queries: Tensor) -> Tensor:
        return (search(queries).scores * weights).sum()

    expected = gradient(loss, QUERIES)
    assert torch.equal(torch.func.grad(loss)(QUERIES), expected)
    _, pull = torch.func.vjp(lambda q: search(q).scores, QUERIES)
    assert torch.equal(pull(weights)[0], expected)
    jacobian = torch.func.jacrev(lambda q: search(q).scores)(QUERIES)
    contracted = torch.einsum("qk,qkrc->rc", weights, jacobian)
    torch.testing.assert_close(contracted, expected)


def test_per_sample_gradients(search: Search) -> None:
    def loss(query: Tensor) -> Tensor:
        return search(query[None]).scores.sum()

    expected = gradient(lambda q: search(q).scores.sum(), QUERIES)
    assert torch.equal(torch.vmap(torch.func.grad(loss))(QUERIES), expected)
    batched = torch.func.grad(lambda q: torch.vmap(loss)(q).sum())(QUERIES)
    assert torch.equal(batched, expected)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_func_gradients_of_prototypes(metric: str) -> None:
    def loss(queries: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return topk(queries, [first, second], K, metric=metric).scores.square().sum()

    inputs = [x.double() for x in (QUERIES, PROTOTYPES[:50], PROTOTYPES[50:90])]
    wanted = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(loss(*wanted), wanted)
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1, 2))(*inputs), expected)
    of_second = torch.func.grad(loss, argnums=2)(*inputs)
    torch.testing.assert_close(of_second, expected[2])
    batched = [x.unflatten(0, (-1, 5)) for x in inputs[1:]]
    queries = inputs[0]
    each = torch.vmap(torch.func.grad(loss, argnums=1), in_dims=(None, 0, None))
    actual = each(queries, batched[0], inputs[2])
    for b, first in enumerate(batched[0]):
        torch.testing.assert_close(
            actual[b], torch.func.grad(loss, argnums=1)(queries, first, inputs[2])
        )


def test_vmap_of_queries_that_autograd_follows(search: Search) -> None:
    expected = gradient(lambda q: search(q).scores.sum(), QUERIES)
    actual = gradient(lambda q: torch.vmap(lambda x: search(x[None]).scores)(q).sum(), QUERIES)
    assert torch.equal(actual, expected)


def test_forward_mode_is_refused(search: Search) -> None:
    """And does not pass for zero."""
    with pytest.raises(NotImplementedError, match=r"jvp|forward AD"):
        torch.func.jvp(lambda q: search(q).scores, (QUERIES,), (QUERIES,))
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=r"jvp|forward AD"),
    ):
        search(torch.autograd.forward_ad.make_dual(QUERIES, QUERIES))


def test_second_derivatives_are_refused(search: Search) -> None:
    queries = QUERIES.clone().requires_grad_()
    (grad,) = torch.autograd.grad(search(queries).scores.sum(), queries, create_graph=True)
    with pytest.raises(RuntimeError, match="topk_backward"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match="differentiated once"):
        torch.func.jacrev(torch.func.grad(lambda q: search(q).scores.sum()))(QUERIES)


# --- modes and settings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(search: Search, dtype: torch.dtype) -> None:
    """The inputs as given are the contract."""
    expected = search(QUERIES)
    expected_grad = gradient(lambda q: search(q).scores.sum(), QUERIES)
    with torch.autocast("cpu", dtype=dtype):
        assert (QUERIES @ QUERIES.T).dtype == dtype
        assert_same(search(QUERIES), expected)
        assert torch.equal(gradient(lambda q: search(q).scores.sum(), QUERIES), expected_grad)


def test_a_bank_made_under_autocast_is_the_same_bank() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bank = coded_bank()
    assert_same(bank.topk(QUERIES, K), coded_bank().topk(QUERIES, K))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(search: Search, mode: Callable) -> None:
    expected = search(QUERIES)
    with mode():
        found = search(QUERIES.clone().requires_grad_())
        assert not found.scores.requires_grad
        assert_same(found, expected)
        inner = QUERIES.clone()
    assert_same(search(inner), expected)  # an inference tensor outside of the mode
    assert_same(search(QUERIES), expected)  # and nothing it left behind is in the way


@pytest.fixture
def settings() -> Iterator[None]:
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "set_it",
    [
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.set_num_threads(1),
        lambda: torch.set_num_threads(3),
        lambda: torch.set_flush_denormal(False),
    ],
)
def test_settings_change_nothing(search: Search, set_it: Callable) -> None:
    expected = search(QUERIES)
    expected_grad = gradient(lambda q: search(q).scores.sum(), QUERIES)
    set_it()
    assert_same(search(QUERIES), expected)
    torch.testing.assert_close(gradient(lambda q: search(q).scores.sum(), QUERIES), expected_grad)


def test_meta_tensors_and_fake_tensors_have_shapes_and_dtypes(search: Search) -> None:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        scores, indices = search(torch.empty(5, C))
    assert (scores.shape, scores.dtype) == ((5, K), torch.float32)
    assert (indices.shape, indices.dtype) == ((5, K), torch.int64)
    assert_same(search(QUERIES), search(QUERIES))  # on real tensors again
    scores, indices = topk(torch.empty(5, C, device="meta"), PROTOTYPES.to("meta"), K)
    assert (scores.shape, scores.device.type) == ((5, K), "meta")
    assert (indices.shape, indices.dtype) == ((5, K), torch.int64)


# --- tensors of all sorts


def views() -> dict[str, Tensor]:
    wide = drawn(len(QUERIES), 2 * C)
    return {
        "every other channel": wide[:, ::2],
        "every other row": drawn(2 * len(QUERIES), C)[::2],
        "transposed": drawn(C, len(QUERIES)).T,
        "expanded": QUERIES[:1].expand(7, -1),
        "expanded channels": QUERIES[:, :1].expand(-1, C),
        "an offset": drawn(3 + 7 * C).narrow(0, 3, 7 * C).view(7, C),
        "overlapping": drawn(100).as_strided((7, C), (3, 1)),
        "flipped": QUERIES.flip(0),
        "a parameter": nn.Parameter(QUERIES),
        "negated": torch.imag(torch.conj(torch.complex(QUERIES, QUERIES))),  # a lazy negation
    }


@pytest.mark.parametrize("name", views())
def test_views(search: Search, name: str) -> None:
    view = views()[name]
    plain = view.detach().clone(memory_format=torch.contiguous_format).resolve_neg()
    expected = search(plain)
    found = search(view)
    assert_same(found, expected)
    assert found.scores.requires_grad == view.requires_grad
    assert_same(topk(plain, view, 3), topk(plain, plain, 3))
    assert_exact(topk(plain, view.detach(), 3), Problem(plain, [plain], 3, "cosine"))


def test_matches_can_be_pickled_and_unpacked() -> None:
    found = topk(QUERIES, PROTOTYPES, K)
    loaded = pickle.loads(pickle.dumps(found))
    assert isinstance(loaded, Matches)
    assert_same(loaded, found)
    file = io.BytesIO()
    torch.save(found._asdict(), file)
    file.seek(0)
    assert_same(Matches(**torch.load(file)), found)


# --- threads and processes


def test_threads_get_the_same_bits(search: Search) -> None:
    batches = [drawn(20, C, seed=s) for s in range(6)]
    expected = [search(batch) for batch in batches]
    start = threading.Barrier(4)

    def work(_: int) -> list[Matches]:
        start.wait()
        return [search(batch) for batch in batches]

    for found in in_threads(work, range(4)):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)


class Searched(torch.utils.data.Dataset):
    def __init__(self, search: Search) -> None:
        self.search = search

    def __len__(self) -> int:
        return len(QUERIES)

    def __getitem__(self, i: int) -> Tensor:
        return self.search(QUERIES[i : i + 1]).indices[0]


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_workers_search_after_their_parent_did(search: Search) -> None:
    """And do not wait for threads that only the parent has."""
    expected = search(QUERIES).indices
    loader = torch.utils.data.DataLoader(
        Searched(search), batch_size=3, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    assert torch.equal(torch.cat(list(loader)), expected)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_default_dtype_changes_nothing(search: Search, dtype: torch.dtype) -> None:
    expected = search(QUERIES)
    torch.set_default_dtype(dtype)
    assert_same(search(QUERIES), expected)


def test_inside_another_default_device(search: Search) -> None:
    """What a search makes lies where the queries are."""
    expected = search(QUERIES)
    with torch.device("meta"):
        assert_same(search(QUERIES), expected)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_do_not_take_the_default_dtype(dtype: torch.dtype, metric: str) -> None:
    """A bank made under it, and raw prototypes coded in passing."""
    prototypes = drawn(1 << 14, 128)
    queries = prototypes[:256] + 0.1 * drawn(256, 128, seed=1)
    expected = topk(queries, prototypes, K, metric=metric)
    torch.set_default_dtype(dtype)
    assert_same(topk(queries, prototypes, K, metric=metric), expected)
    bank = PrototypeBank(prototypes, metric=metric, screen=CODED)
    assert_same(bank.topk(queries, K), expected)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("make", [float_bank, coded_bank, changed_bank])
def test_banks_made_inside_another_default_device(make: Callable[[], PrototypeBank]) -> None:
    expected = make().topk(QUERIES, K)
    with torch.device("meta"), torch.device("cpu"):  # the inner one counts
        bank = make()
    torch.set_default_device("meta")
    assert_same(bank.topk(QUERIES, K), expected)
    made = PrototypeBank(PROTOTYPES, screen=CODED)
    made.add(QUERIES.clone())
    made.remove(0)
    assert made.device.type == made.ids.device.type == "cpu"
    torch.set_default_device(None)
    rows = torch.cat([PROTOTYPES[1:], QUERIES])
    assert_same(made.topk(QUERIES, K), topk(QUERIES, rows, K))
