"""PrototypeBank on a real device: whichever backend takes the search, the contract is the same."""

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA or ROCm device", allow_module_level=True)

from problems import KINDS, METRICS, Problem, assert_exact, vectors

from flashmatch import PrototypeBank, topk
from flashmatch.kernels.torch_backend import plan

pytestmark = pytest.mark.usefixtures("poisoned_empty")


@pytest.fixture(autouse=True)
def _codes_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CODES_ELEMENTS", 0)


def drawn(kind: str, rows: int, channels: int, seed: int) -> Tensor:
    return vectors(kind, rows, channels, torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("kept_on", ["device", "pinned", "host", "mixed"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_originals_anywhere(kind: str, metric: str, kept_on: str) -> None:
    q, p = drawn(kind, 70, 72, 1), drawn(kind, 20_000, 72, 2)
    problem = Problem(q, [p], 10, metric, None, "raise", None)
    kept = {
        "device": [p.cuda()],
        "pinned": [p.pin_memory()],
        "host": [p],
        "mixed": [p[:9_001].cuda(), p[9_001:]],
    }[kept_on]
    bank = PrototypeBank(kept, metric=metric, device="cuda")
    assert bank.device.type == "cuda"
    assert_exact(bank.topk(q.cuda(), 10), problem)


def test_queries_and_results_stay_where_the_queries_are() -> None:
    q, p = drawn("gaussian", 20, 64, 1), drawn("gaussian", 20_000, 64, 2)
    bank = PrototypeBank(p.cuda())
    for device in ("cpu", "cuda"):
        found = bank.topk(q.to(device), 10)
        assert found.scores.device.type == found.indices.device.type == device
        expected = topk(q, p, 10)
        assert torch.equal(found.indices.cpu(), expected.indices)
        assert torch.equal(found.scores.cpu(), expected.scores)


@pytest.mark.parametrize("metric", METRICS)
def test_additions_removals_and_masks(metric: str) -> None:
    q, p = drawn("gaussian", 40, 64, 1).cuda(), drawn("gaussian", 20_000, 64, 2).cuda()
    bank = PrototypeBank(p[:15_000], metric=metric)
    bank.add(p[15_000:])
    bank.remove(torch.arange(0, 6_000))
    mask = torch.rand(40, 14_000, device="cuda") < 0.3
    for m in (None, mask[0], mask):
        found, expected = bank.topk(q, 10, mask=m), topk(q, p[6_000:], 10, metric=metric, mask=m)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(bank.ids[found.indices], expected.indices + 6_000)


def test_a_file_moves_between_cpu_and_device(tmp_path) -> None:
    q, p = drawn("gaussian", 20, 64, 1), drawn("gaussian", 20_000, 64, 2)
    PrototypeBank(p).save(tmp_path / "bank.safetensors")
    bank = PrototypeBank.load(tmp_path / "bank.safetensors", "cuda")
    bank.save(tmp_path / "again.safetensors")
    again = PrototypeBank.load(tmp_path / "again.safetensors")
    expected = topk(q, p, 10)
    for found in (bank.topk(q, 10), again.topk(q, 10)):
        assert torch.equal(found.indices, expected.indices)


def test_all_equal_scores_count_as_repaired() -> None:
    p = torch.ones(140_000, 64, device="cuda")  # more than two rounds have room for
    bank = PrototypeBank(p)
    if bank.screen == "float":
        pytest.skip("without Triton, codes are made where they are asked for")
    assert bank.topk(p[:40], 10).indices.tolist() == [list(range(10))] * 40
    assert bank.stats.repaired == 40
    assert bank.stats.certified == 0
