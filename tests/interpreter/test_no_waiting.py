"""What is launched on a device is launched without waiting for it, whatever it turns out to hold.

The launchers run on CPU tensors, with every operator they call written down. Operators whose result
lies with the host, or whose shape depends on numbers, make a CUDA stream wait: none may be there.
The kernels themselves do not run, so that nothing but launching is seen.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from by_triton import search_codes, search_vectors, search_whole, search_with_flags, vectors_plan
from coded import coded
from problems import Problem, vectors
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from flashmatch.kernels.triton_backend import bank_search, stages, vector_search
from flashmatch.kernels.triton_backend.bank_search import LAYOUT

LAUNCHERS = (stages, bank_search, vector_search)
WAITING = {
    "_local_scalar_dense",  # item, tolist, int(), bool(), float()
    "item", "equal", "is_nonzero", "nonzero", "nonzero_static", "argwhere", "masked_select",
    "unique", "unique_dim", "unique_consecutive", "_unique", "_unique2", "repeat_interleave",
    "bincount", "histc", "allclose", "_assert_async", "_to_cpu",
}  # fmt: skip
"""By the part of their names before the dot."""


FREE = {
    "alias", "detach", "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided",
    "expand", "select", "slice", "view", "_unsafe_view", "unsqueeze", "as_strided", "reshape",
}  # fmt: skip
"""Operators that launch nothing: views, and memory that is not written to."""


class Seen(NamedTuple):
    operators: list[str]
    waiting: list[str]


class Watch(TorchDispatchMode):
    """Writes down what runs, and what of it would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.waiting: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        self.seen.append(name)
        if name in WAITING or _chooses_by_mask(name, args) or _is_copied(name, args, kwargs):
            self.waiting.append(str(func))
        return func(*args, **kwargs)


def _chooses_by_mask(name: str, args: tuple) -> bool:
    """x[mask], or x[mask] = y."""
    if name not in ("index", "index_put", "index_put_", "_unsafe_index"):
        return False
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _is_copied(name: str, args: tuple, kwargs: dict) -> bool:
    """To or from another device, without non_blocking. Here any named device is another one."""
    asked = kwargs.get("device")
    moved = name in ("_to_copy", "to") and asked is not None and asked.type != args[0].device.type
    between = name in ("copy_", "copy") and args[0].device != args[1].device
    return (moved or between) and not kwargs.get("non_blocking", False)


class Reads(TorchFunctionMode):
    """Writes down reads that are no operator where the tensor is on the host already."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("tolist", "numpy", "cpu", "__array__"):
            self.waiting.append(name)
        return func(*args, **(kwargs or {}))


def watch(call: Callable[[], object]) -> Seen:
    with Reads() as reads, Watch() as operators:
        call()
    return Seen(operators.seen, operators.waiting + reads.waiting)


class Unlaunched:
    """A kernel that is launched and does nothing."""

    def __init__(self, launched: list[str], name: str) -> None:
        self.launched, self.name = launched, name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **kwargs: self.launched.append(self.name)


def watched(
    search: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> tuple[Seen, list[str]]:
    launched: list[str] = []
    for module in LAUNCHERS:
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Unlaunched(launched, name))
    return watch(search), launched


def drawn(rows: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return vectors("gaussian", rows, channels, generator).float()


def mask_of(kind: str, queries: int, rows: int) -> Tensor | None:
    whole = torch.arange(queries)[:, None] % 3 != torch.arange(rows) % 3
    return {"none": None, "rows": whole[0], "pairs": whole}[kind]


@pytest.mark.parametrize("mask", ["none", "rows", "pairs"])
@pytest.mark.parametrize("chunk_rows", [None, 128])
@pytest.mark.parametrize(("queries", "channels"), [(3, 64), (17, 64), (3, 20)])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_searching_prototypes_as_given(
    queries: int, channels: int, chunk_rows: int | None, mask: str, metric: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Read in TF32 and coded in passing, in one chunk and in several."""
    q, p = drawn(queries, channels), [drawn(300, channels), drawn(70, channels).half()]
    problem = Problem(q, p, 5, metric, mask_of(mask, queries, 370), "exclude", chunk_rows)
    tf32 = vectors_plan(problem).tf32
    assert tf32 == (queries <= 16 and channels % 64 == 0)
    seen, launched = watched(lambda: search_with_flags(problem), monkeypatch)
    assert seen.waiting == []
    assert len(seen.operators) > 10
    expected = {"settle_kernel"}
    if tf32:
        expected |= {"scale_queries_kernel", "scan_rows_kernel"}
    else:
        expected |= {*coding_in_passing(metric), "scan_codes_kernel"}
    if mask == "pairs" or (tf32 and mask == "rows"):
        expected.add("pack_mask_kernel")
    assert set(launched) == expected


@pytest.mark.parametrize("mask", ["none", "rows", "pairs"])
@pytest.mark.parametrize("sizes", [(1300,), (700, 600)])
@pytest.mark.parametrize("queries", [3, 17])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_searching_codes(
    queries: int, sizes: tuple[int, ...], mask: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few queries and many, in one run of pages and in several."""
    q, p = drawn(queries, 20), [drawn(size, 20) for size in sizes]
    codes = coded(p, metric, LAYOUT)
    problem = Problem(q, p, 5, metric, mask_of(mask, queries, 1300), "exclude", None)
    seen, launched = watched(lambda: search_codes(problem, codes), monkeypatch)
    assert seen.waiting == []
    assert len(seen.operators) > 10
    packed = {"pack_mask_kernel"} if mask != "none" else set()
    assert set(launched) == {"code_queries_kernel", *ROUND} | packed


def coding_in_passing(metric: str) -> list[str]:
    ordering = ["order_rows_kernel"] if metric == "l2" else []
    return ["fit_origin_kernel", "code_queries_kernel", *ordering, "code_prototypes_kernel"]


ROUND = ["scan_codes_kernel", "settle_kernel"]
TF32_ROUND = ["scan_rows_kernel", "settle_kernel"]


@pytest.mark.parametrize(("queries", "rows"), [(3, 2048), (17, 2000), (130, 10_240)])
@pytest.mark.parametrize(("metric", "mask"), [("cosine", "none"), ("l2", "none"), ("l2", "rows")])
@pytest.mark.parametrize("screen", ["bank", "rotated bank", "codes in passing", "tf32"])
def test_a_search_is_few_launches(
    screen: str, queries: int, rows: int, metric: str, mask: str, planned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of pages that are too many for one round, and a few for two; the last may be ragged."""
    if screen == "tf32" and queries > 16:
        return
    channels = 64 if screen == "tf32" else 20
    q, p = drawn(queries, channels), drawn(rows, channels)
    if screen == "rotated bank":
        p[:, 7] *= 100
    problem = Problem(q, [p], 5, metric, mask_of(mask, queries, rows), "exclude", None)
    capacity = -(-rows // 512) * (8 if queries <= 16 else 1)  # for a quarter of the tiles
    packed = ["pack_mask_kernel"] * (mask == "rows")
    with planned(strips=1, capacity=capacity, growth=9.0):
        if screen in ("bank", "rotated bank"):
            codes = coded([p], metric, LAYOUT)
            seen, launched = watched(lambda: search_codes(problem, codes), monkeypatch)
            rotated = ["rotate_queries_kernel"] * (screen == "rotated bank")
            assert bool(codes.frame.rotation) == bool(rotated)
            expected = [*rotated, "code_queries_kernel", *packed, *ROUND * 3]
        else:
            seen, launched = watched(lambda: search_with_flags(problem), monkeypatch)
            expected = [*coding_in_passing(metric), *ROUND * 3]
        if screen == "tf32":
            expected = ["scale_queries_kernel", *packed, *TF32_ROUND * 3]
    assert launched == expected
    others = [name for name in seen.operators if name not in FREE]
    assert len(others) <= 4, others


def test_a_small_search_is_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits into one round is never scanned again; a tiny search has none."""
    q, p = drawn(16, 128), drawn(1000, 128)
    codes = coded([p], "cosine", LAYOUT)
    problem = Problem(q, [p], 10, "cosine", None, "exclude", None)
    narrow = problem.replace(queries=q[:, :100], prototypes=[p[:, :100]])
    for search, expected, most in (
        (lambda: search_codes(problem, codes), ["code_queries_kernel", *ROUND], 2),
        (lambda: search_with_flags(narrow), [*coding_in_passing("cosine"), *ROUND], 3),
        (lambda: search_with_flags(problem), ["scale_queries_kernel", *TF32_ROUND], 3),
        (lambda: search_whole(problem), ["settle_all_kernel"], 3),
    ):
        with monkeypatch.context() as patch:
            seen, launched = watched(search, patch)
        assert launched == expected
        others = [name for name in seen.operators if name not in FREE]
        assert len(others) <= most, others
        assert seen.waiting == []


@pytest.mark.parametrize("channels", [64, 20])
def test_raising_waits_once(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the flags, when all is launched: what DESIGN calls its one synchronisation."""
    problem = Problem(drawn(3, channels), [drawn(300, channels)], 5, "dot", None, "raise", None)
    seen, _ = watched(lambda: search_vectors(problem), monkeypatch)
    assert seen.waiting == ["tolist"]


@pytest.mark.parametrize(
    "offend",
    [
        lambda x: x.sum().item(),
        lambda x: x[0].tolist(),
        lambda x: bool((x > 0).any()),
        lambda x: int(x[0, 0]),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.clone().__setitem__(x > 0, x[0, 0]),
        lambda x: (x > 0).nonzero(),
        lambda x: x.unique(),
        lambda x: x.unique(dim=0),
        lambda x: torch.equal(x, x),
        lambda x: x.to("meta"),
        lambda x: torch.empty_like(x, device="meta").copy_(x),
        lambda x: torch.where(x > 0),
        lambda x: x.repeat_interleave(torch.tensor([1, 2]), 0),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
    ],
)  # fmt: skip
def test_what_waits_is_noticed(offend: Callable[[Tensor], object]) -> None:
    assert watch(lambda: offend(drawn(2, 3))).waiting


def test_what_does_not_wait_is_let_be() -> None:
    x, at = drawn(2, 3), torch.tensor([0])

    def launch() -> None:
        x.to("meta", non_blocking=True)
        x.topk(1).values.copy_(x[:, :1])
        x[at].masked_fill_(x[at] > 0, 1).sort()

    assert watch(launch).waiting == []


@pytest.mark.parametrize("screen", ["tf32", "codes in passing", "bank"])
def test_an_offender_in_a_launcher_is_noticed(screen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the threshold read between two launches, the tests above would fail."""
    settle = stages.settle

    def reading(*args) -> None:
        args[0].best.flags.max().item()
        settle(*args)

    monkeypatch.setattr(stages, "settle", reading)
    channels = 64 if screen == "tf32" else 20
    problem = Problem(drawn(3, channels), [drawn(300, channels)], 5, "dot", None, "exclude", None)
    codes = coded(problem.prototypes, "dot", LAYOUT)
    searches = {
        "tf32": lambda: search_vectors(problem),
        "codes in passing": lambda: search_vectors(problem),
        "bank": lambda: search_codes(problem, codes),
    }
    seen, _ = watched(searches[screen], monkeypatch)
    assert seen.waiting == ["aten._local_scalar_dense.default"]
