"""A bank of a memory-mapped file: what building and searching it hold besides its codes."""

import json
import os
from pathlib import Path

import pytest
import torch
from allocations import peak_bytes
from features import features
from programs import output_of
from screens import CODED, search_in_general

from flashmatch import kernels
from flashmatch.kernels import PrototypeBank
from flashmatch.kernels.files import tensor_file
from flashmatch.kernels.products import choice
from flashmatch.kernels.torch_backend import plan

ROWS, CHANNELS, QUERIES, K = 400_000, 128, 2000, 100
ROOT = Path(__file__).parents[2]
MIB = 2**20
SMALL = "small workspace"
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="nobody counts memory here"
)
needs_codes = pytest.mark.skipif(
    not choice.are_codes_fast("cpu", CHANNELS), reason="no codes of so few channels here"
)


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """In a process of its own, whose memory nothing else has touched."""
    path = tmp_path_factory.mktemp("bank") / "prototypes.safetensors"
    generator = torch.Generator().manual_seed(0)
    step = ROWS // 20
    pieces = (torch.randn(step, CHANNELS, generator=generator) for _ in range(20))
    tensor_file.write(path, {"prototypes": (torch.float32, (ROWS, CHANNELS), pieces)}, {})
    program = ROOT / "tests" / "support" / "searches" / "build_and_search.py"
    env = os.environ | {"PYTHONPATH": str(ROOT / "bench")}
    printed = output_of(program, path, QUERIES, K, env=env)
    path.unlink()
    return json.loads(printed)


@needs_codes
def test_codes_were_searched(peaks: dict[str, float]) -> None:
    assert peaks["int8"]
    assert peaks["codes"] == pytest.approx(ROWS * (CHANNELS + 17) / MIB, rel=0.02)


@needs_codes
def test_building_holds_the_codes_and_little_more(peaks: dict[str, float]) -> None:
    """The vectors are 195 MiB."""
    assert peaks["build"] < peaks["codes"] + 160


@needs_codes
@pytest.mark.parametrize(
    "search", ["search, masks", f"search, masks, {SMALL}", f"search, masks, a row removed, {SMALL}"]
)
def test_searching_stays_within_the_workspace(search: str, peaks: dict[str, float]) -> None:
    outputs = QUERIES * K * 12 / MIB
    assert peaks[search] - outputs <= (32 if SMALL in search else 256)


@pytest.mark.parametrize(("mask", "gone"), [("none", 0), ("rows", 1), ("pairs", 1)])
@pytest.mark.parametrize("kind", ["gaussian", "identical"])
@pytest.mark.parametrize(
    ("queries", "rows", "channels", "k"),
    [(600, 10_000, 32, 10), (200, 9000, 200, 500), (100, 3000, 2000, 5)],
)
def test_what_torch_holds_stays_within_the_workspace(
    queries: int,
    rows: int,
    channels: int,
    k: int,
    kind: str,
    gone: int,
    mask: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = 16 * MIB
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", workspace)
    search_in_general(monkeypatch)  # test_workspace.py has one pass
    monkeypatch.setattr(plan, "CODES_ELEMENTS", 0)
    generator = torch.Generator().manual_seed(1)
    q, p = (features(kind, n, channels, generator).float() for n in (queries, rows))
    bank = PrototypeBank(p, screen=CODED)
    bank.remove(range(gone))
    shape = {"none": None, "rows": (len(bank),), "pairs": (queries, len(bank))}[mask]
    allowed = None if shape is None else torch.rand(shape, generator=generator) < 0.9
    bank.topk(q[:1], 1)
    assert bank._state.operands.nbytes  # what is made once and kept is no part of a search
    peak = peak_bytes(lambda: bank.topk(q, k, mask=allowed))
    assert peak - queries * k * 12 <= workspace
