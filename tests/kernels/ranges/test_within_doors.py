"""What the doors of within take, refuse, differentiate and give back."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from problems import METRICS

from flashmatch import PrototypeBank, count_within, topk, within

Q, P = torch.randn(5, 8), torch.randn(30, 8)

REFUSED = [
    ({"threshold": math.nan}, ValueError, "threshold must not be NaN; got NaN"),
    ({"threshold": "0.5"}, TypeError, "threshold must be "),
    ({"threshold": None}, TypeError, "threshold must be "),
    ({"threshold": True}, TypeError, "threshold must be a number"),
    ({"threshold": torch.zeros(4)}, ValueError, "threshold must be a number or have shape (5,)"),
    ({"threshold": torch.zeros(5, dtype=torch.int64)}, TypeError, "threshold must be a number or"),
    ({"threshold": torch.full((5,), math.nan)}, ValueError, "threshold must not be NaN"),
    ({"limit": 0}, ValueError, "limit must be at least 1; got 0"),
    ({"limit": 1.5}, TypeError, "limit must be an int; got float"),
    ({"limit": True}, TypeError, "limit must be an int; got bool"),
    ({"sort": 1}, TypeError, "sort must be a bool; got int"),
    ({"mask": torch.ones(29, dtype=torch.bool)}, ValueError, "mask must have shape (30,)"),
]
OF_VECTORS = [
    ({"metric": "l1"}, ValueError, "metric must be one of"),
    ({"nonfinite": "ignore"}, ValueError, "nonfinite must be one of"),
    ({"chunk_rows": 0}, ValueError, "chunk_rows must be at least 1; got 0"),
    ({"prototypes": torch.randn(30, 9)}, ValueError, "queries and prototypes must have equally"),
]


@pytest.mark.parametrize(("changes", "error", "words"), [*REFUSED, *OF_VECTORS])
def test_refusals(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    asked = {"queries": Q, "prototypes": P, "threshold": 0.5} | changes
    with pytest.raises(error, match=re.escape(words)):
        within(**asked)
    if not {"limit", "sort"} & set(changes):
        with pytest.raises(error, match=re.escape(words)):
            count_within(**asked)


@pytest.mark.parametrize(("changes", "error", "words"), REFUSED)
def test_refusals_of_a_bank(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    bank = PrototypeBank(P)
    asked = {"queries": Q, "threshold": 0.5} | changes
    with pytest.raises(error, match=re.escape(words)):
        bank.within(**asked)
    if not {"limit", "sort"} & set(changes):
        with pytest.raises(error, match=re.escape(words)):
            bank.count_within(**asked)


@pytest.mark.parametrize("of_bank", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_gradients_are_those_of_topk(metric: str, of_bank: bool) -> None:
    """Of the same pairs, each with a weight of its own."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(5, 30, generator=generator)
    grads = []
    for by_threshold in (True, False):
        q, p = Q.double().clone().requires_grad_(), P.clone().requires_grad_(not of_bank)
        bank = PrototypeBank(P.repeat(2, 1), metric=metric) if of_bank else None
        if bank is not None:  # positions are not rows
            bank.remove(torch.arange(30))
        if by_threshold:
            found = bank.within(q, -100.0) if bank else within(q, p, -100.0, metric=metric)
            weighed = found.scores * weights[found.queries, found.indices]
        else:
            scores, indices = bank.topk(q, 30) if bank else topk(q, p, 30, metric=metric)
            weighed = scores * weights.gather(1, indices)
        weighed.sum().backward()
        grads.append([tensor.grad for tensor in (q, p) if tensor.requires_grad])
    assert len(grads[0]) == 1 + (not of_bank)
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_no_graph_is_kept_where_none_is_wanted() -> None:
    q = Q.clone().requires_grad_()
    with torch.no_grad():
        assert not within(q, P, 0.0).scores.requires_grad
    assert not within(Q, P, 0.0).scores.requires_grad
    assert not count_within(q, P, 0.0).requires_grad


def test_transforms_are_refused() -> None:
    for call in (within, count_within):
        with pytest.raises(NotImplementedError, match=r"torch\.func"):
            torch.func.vmap(lambda q, call=call: call(q, P, 0.0))(Q[None])
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match="forward AD"),
    ):
        within(torch.autograd.forward_ad.make_dual(Q, torch.ones_like(Q)), P, 0.0)


def test_under_autocast_and_in_inference_mode() -> None:
    wanted = within(Q, P, 0.1)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = within(Q, P, 0.1)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("of_bank", [False, True])
def test_arrays_in_and_out(of_bank: bool) -> None:
    wanted, bank = within(Q, P, 0.1), PrototypeBank(P.numpy())
    each = np.full(5, 0.1)
    for threshold in (0.1, np.float64(0.1), np.float32(0.1), each, each.tolist()):
        if of_bank:
            found, counts = (f(Q.numpy(), threshold) for f in (bank.within, bank.count_within))
        else:
            found, counts = (f(Q.numpy(), P.numpy(), threshold) for f in (within, count_within))
        assert all(isinstance(part, np.ndarray) for part in (*found, counts, found.queries))
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(found, wanted, strict=True))
        assert np.array_equal(found.queries, wanted.queries.numpy())
        assert np.array_equal(counts, wanted.offsets.diff().numpy())
    mask = np.arange(30) % 2 == 0
    found = within(Q.numpy(), P.numpy(), -1.0, mask=mask, sort=False)
    assert found.indices.tolist() == [*range(0, 30, 2)] * 5
