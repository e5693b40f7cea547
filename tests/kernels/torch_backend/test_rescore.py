"""Scores of all pairs of two blocks, where the definition of a score is to be spared."""

import pytest
import torch
from problems import KINDS, METRICS, vectors

from flashmatch.kernels.contract import reference
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.torch_backend import rescore


@pytest.mark.parametrize("metric", METRICS)
def test_vectors_without_a_common_coordinate(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 lies between two fp32 numbers that no error can tell apart, and is the score nevertheless.

    Ones, and negative numbers, so that terms are -0, and some queries are 0 altogether.
    """
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.zeros(n, 40) for n in (30, 200))
    for x in (q, p):
        each = torch.arange(len(x))
        x[each, torch.randint(40, (len(x),), generator=generator)] = 1.0
        x[each[::3], torch.randint(40, (len(each[::3]),), generator=generator)] -= 1.0
    scores, indices = reference.topk(q, p, 200, metric)
    defined, definition = [], rescore._definition
    monkeypatch.setattr(rescore, "_definition", lambda *a: defined.append(a) or definition(*a))
    found = rescore.dense(q, p, metric)
    assert torch.equal(found.gather(1, indices), scores)
    assert not found.signbit()[found == 0].any()
    if metric != "l2":
        assert sum(len(a[0]) for a in defined) < 0.05 * found.numel()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_three_ways_to_one_score(metric: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pairs that are gathered, chosen tile by tile, and of all, cut where it is awkward."""
    generator = torch.Generator().manual_seed(5)
    q, p = (vectors(kind, n, 23, generator).float() for n in (11, 97))
    rows, columns = (torch.rand(11, 97, generator=generator) < 0.7).nonzero(as_tuple=True)
    monkeypatch.setattr(rescore, "_DENSE_ELEMENTS", 13 * 23)
    dense = rescore.dense(q, p, metric)
    ready = rescore.Ready(q, metric)
    for found in (
        rescore.pairs(q, Rows([p]), rows, columns, metric),
        rescore.chosen(q, ready, p, rows, columns, metric),
    ):
        assert torch.equal(found.view(torch.int32), dense[rows, columns].view(torch.int32))
    assert not dense[dense == 0].signbit().any()
