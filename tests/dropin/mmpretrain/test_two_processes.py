"""Two processes give what one gives, in both; the original's sums do not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor

SCRIPT = Path(__file__).with_name("one_of_two.py")
CHANNELS = 64
SECONDS = 300


@pytest.fixture(scope="module")
def problem(digits: Tensor, folder: Path, tmp_path_factory) -> dict[str, Any]:
    """Five images, three queries and a tensor."""
    root = tmp_path_factory.mktemp("two")
    (root / "gallery").mkdir()
    for path in sorted(folder.iterdir())[:5]:
        shutil.copy(path, root / "gallery")
    queries = (digits[40:43].float() - 116) / 57
    torch.save(queries, root / "queries.pt")
    generator = torch.Generator().manual_seed(4)
    vectors = torch.randn(5, CHANNELS, generator=generator).relu()
    torch.save(vectors, root / "gallery_of_0.pth")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": 32}]
    dataset = {
        "type": "CustomDataset",
        "data_root": str(root / "gallery"),
        "with_label": False,
        "pipeline": [*pipeline, {"type": "PackInputs"}],
    }
    sampler = {"type": "DefaultSampler", "shuffle": False}
    loader = {"batch_size": 2, "num_workers": 0, "dataset": dataset, "sampler": sampler}
    return {"root": root, "loader": loader, "vectors": vectors, "queries": queries}


@pytest.fixture(scope="module")
def found(problem: dict[str, Any]) -> list[dict]:
    """What each of the two processes found."""
    encoder = [
        {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": (3,)},
        {"type": "GlobalAveragePooling"},
    ]
    root = problem["root"]
    (root / "config.json").write_text(json.dumps([{"image_encoder": encoder}, problem["loader"]]))
    command = [sys.executable, str(SCRIPT)]
    both = [
        subprocess.Popen(
            [*command, str(rank), str(root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(outputs)
    return [torch.load(root / f"{rank}.pt") for rank in range(2)]


@pytest.fixture
def alone(problem: dict[str, Any], build_pair):
    """What the original gives in one process: ours of two processes must be equal to that."""

    def predict(kind: str, similarity: str) -> tuple[Tensor, Tensor]:
        prototype = problem["vectors"] if kind in ("tensor", "path") else problem["loader"]
        function = similarity if similarity == "cosine_similarity" else (lambda a, b: a @ b.T)
        model = build_pair(
            prototype=prototype, similarity_fn=function, head=None, data_preprocessor=None
        ).original
        with DefaultScope.overwrite_default_scope("mmpretrain"), torch.no_grad():
            samples = model.predict(problem["queries"])
        return (
            torch.stack([sample.pred_score for sample in samples]),
            torch.stack([sample.pred_label for sample in samples]),
        )

    return predict


@pytest.mark.parametrize("kind", ["tensor", "path", "dict", "loader"])
@pytest.mark.parametrize("similarity", ["cosine_similarity", "dot"])
def test_two_processes_equal_one(kind: str, similarity: str, found: list, alone) -> None:
    score, label = alone(kind, similarity)
    close = {"rtol": 1e-5, "atol": 4e-7} if similarity == "dot" else {"rtol": 0, "atol": 4e-7}
    for process in found:
        mine = process[kind, similarity.removesuffix("_similarity"), "flashmatch"]
        torch.testing.assert_close(mine["score"], score, **close)
        assert torch.equal(mine["label"], label)


@pytest.mark.parametrize("kind", ["dict", "loader"])
def test_the_original_adds_up_what_both_processes_have(kind: str, found: list) -> None:
    """Its cosines survive that; its dot products and its dumped files do not."""
    for process in found:
        mine, theirs = (process[kind, "cosine", s] for s in ("flashmatch", "mmpretrain"))
        torch.testing.assert_close(mine["score"], theirs["score"], rtol=0, atol=1e-6)
        assert torch.equal(mine["label"], theirs["label"])
        mine, theirs = (process[kind, "dot", s] for s in ("flashmatch", "mmpretrain"))
        times = (theirs["vectors"] / mine["vectors"]).nanmean(1)
        expected = [2, 1, 1, 1, 1] if kind == "dict" else [2] * 5
        torch.testing.assert_close(times, torch.tensor(expected).float(), rtol=1e-4, atol=0)
        assert (theirs["score"] > 1.5 * mine["score"]).any()


def test_a_missing_file_is_an_error_in_both(found: list) -> None:
    """The original's second process waits for a broadcast that never comes."""
    for process in found:
        error = process["missing", "cosine", "flashmatch"]["error"]
        assert error.startswith("FileNotFoundError")


def test_distributed_data_parallel_and_averaged_buffers(found: list, alone) -> None:
    score, label = alone("dict", "cosine_similarity")
    for process in found:
        torch.testing.assert_close(process["wrapped"]["score"], score, rtol=0, atol=4e-7)
        assert torch.equal(process["wrapped"]["label"], label)
