"""The build's file has the neighbours it says, and its memory is what the process alone holds."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import output_of
from safetensors.torch import load_file

from flashmatch.kernels.contract import reference
from flashmatch.kernels.products import choice
from measuring.memory import MIB, reset_resident_peak
from studies import bank_build

ROOT = Path(__file__).resolve().parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_planted_neighbours_are_the_oracles(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bank_build, "PIECE", 700)  # pieces, the last one shorter
    path = bank_build.write(tmp_path, 2000, 64)
    prototypes = load_file(path)["prototypes"]
    planted = np.load(bank_build._beside(path))
    assert prototypes.shape == (2000, 64)
    assert prototypes.std(dim=1).min() > 0.5  # every piece was written
    found = reference.topk(torch.from_numpy(planted["queries"]), prototypes, 10, "cosine")
    assert np.array_equal(found[1].numpy(), planted["indices"])


@pytest.mark.parametrize(("private", "verdict"), [(611.9, "held"), (612.0, "missed")])
def test_verdict(private: float, verdict: str) -> None:
    assert bank_build.verdict(private, codes_mib=100.0) == verdict


def measured(body: str) -> tuple[float, float]:
    """Private and resident MiB of ``body`` in a process that has done nothing before."""
    script = f"""
import mmap, os, sys
sys.path.insert(0, {str(ROOT / "bench")!r})
import numpy as np, torch
from measuring.memory import PrivatePeak
with PrivatePeak() as peak:
    {body}
print(peak.private_mib, peak.resident_mib)
"""
    private, resident = map(float, output_of("-c", script).split())
    return private, resident


@LINUX
def test_private_peak_sees_what_is_freed_before_the_end() -> None:
    private, _ = measured("[float(torch.ones(12 * 2**20).sum()) for _ in range(20)]  # 48 MiB each")
    assert 47 < private < 64


@LINUX
def test_private_peak_does_not_count_mapped_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(48 * MIB))
    file = f"os.open({str(path)!r}, os.O_RDONLY)"
    private, resident = measured(
        f"np.frombuffer(mmap.mmap({file}, 0, access=mmap.ACCESS_READ), np.uint8).max()"
    )
    assert private < 16
    if reset_resident_peak():
        assert resident > 47


@LINUX
def test_a_small_build_holds_and_finds_what_was_planted(tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert bank_build.run(20_000, 64, tmp_path, results) == 0
    [ledger] = results.iterdir()
    with ledger.open() as file:
        [line] = csv.DictReader(file)
    assert ledger.name.endswith("-build.csv")
    assert (line["rows"], line["channels"], line["agreement"]) == ("20000", "64", "1")
    assert line["held"] == "held"
    least = 64 if choice.are_codes_fast("cpu", 64) else 0  # else there are ids alone
    assert 20_000 * least <= float(line["codes_mib"]) * MIB < 4 * 20_000 * 64
    assert float(line["build_s"]) > 0
    assert list(tmp_path.iterdir()) == [results]  # the file is gone
