"""The evaluators on what people hand them: samples or dicts, with labels or with scores alone."""

from typing import Any

import pytest
import torch
from mmpretrain.evaluation import metrics as theirs
from mmpretrain.structures import DataSample

from flashmatch.retriever.mmpretrain import RetrievalAveragePrecision, RetrievalRecall

QUERIES, PROTOTYPES = 9, 20
KINDS = ("scores", "labels", "both", "few labels")


def samples(kind: str, targets: str) -> list[DataSample]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(QUERIES):
        sample = DataSample()
        scores = torch.rand(PROTOTYPES, generator=generator)
        relevant = torch.rand(PROTOTYPES, generator=generator) < 0.2
        relevant[3] = True
        if kind != "labels":
            sample.set_pred_score(scores)
        if kind != "scores":
            ranked = scores.argsort(descending=True)
            sample.set_pred_label(ranked[:3] if kind == "few labels" else ranked)
        if targets == "scores":  # which count where there are labels, too
            sample.set_gt_score(relevant.float()).set_gt_label([PROTOTYPES - 1])
        else:
            sample.set_gt_label(relevant.nonzero()[:, 0])
        found.append(sample)
    return found


def evaluated(metric: Any, given: list) -> dict[str, float]:
    metric.process(None, given)
    return metric.evaluate(len(given))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["scores", "labels"])
@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("mode", ["IR", "integrate"])
def test_the_numbers_are_theirs(kind: str, targets: str, as_dict: bool, mode: str) -> None:
    given = samples(kind, targets)
    given = [sample.to_dict() for sample in given] if as_dict else given
    by_scores = [sample.to_dict() for sample in samples("scores", "labels")]  # which both take
    assert evaluated(RetrievalRecall(topk=(1, 5)), given) == pytest.approx(
        evaluated(theirs.RetrievalRecall(topk=(1, 5)), by_scores)
    )
    assert evaluated(RetrievalAveragePrecision(topk=10, mode=mode), given) == pytest.approx(
        evaluated(theirs.RetrievalAveragePrecision(topk=10, mode=mode), by_scores), rel=1e-6
    )


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("pred_label", "data_samples must have pred_label or pred_score"),
        ("gt_label", "data_samples must have gt_label or gt_score"),
    ],
)
def test_what_says_too_little_is_refused(missing: str, message: str) -> None:
    (sample, *_) = samples("labels", "labels")
    delattr(sample, missing)
    for given in (sample, sample.to_dict()):
        with pytest.raises(ValueError, match=message):
            RetrievalRecall(topk=(1,)).process(None, [given])


def test_fewer_matches_than_topk_are_refused() -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"^topk must be at most the number of .*, 20 "):
            RetrievalRecall(topk=(1, 21)).process(None, samples(kind, "labels"))
