"""The evaluation example does what it says."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "knn_evaluation.py")


def test_votes_on_digits_are_scikit_learns(capsys: pytest.CaptureFixture[str]) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    example = SimpleNamespace(**runpy.run_path(EXAMPLE))
    results = example.main(k=20, temperature=0.07)
    features, labels = (part.double().numpy() for part in example.digits_features("pixels"))
    peer = neighbors.KNeighborsClassifier(
        20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
    ).fit(features[::2], labels[::2])
    assert results["top1"] == pytest.approx(peer.score(features[1::2], labels[1::2]))
    assert 0.9 < results["top1"] < results["top5"] <= 1
    nearest = peer.kneighbors(features[1::2], 5, return_distance=False)
    hits = (labels[::2][nearest] == labels[1::2, None]).any(1)
    assert results["hit_rate@5"] == pytest.approx(hits.mean())
    assert "recall@20" in capsys.readouterr().out
