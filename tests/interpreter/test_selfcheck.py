"""Each kernel altered in one place: the selfcheck finds it, and nobody gets its answer."""

import dataclasses
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from altered import alter

from flashmatch import kernels
from flashmatch.kernels.triton_backend import chips, float_search, int8_search, launches
from flashmatch.kernels.triton_backend.selfcheck import verdict_file, verdicts
from flashmatch.kernels.triton_backend.selfcheck.checks import all_checks, variants
from flashmatch.kernels.triton_backend.selfcheck.checks.variants import Variant
from flashmatch.kernels.triton_backend.tiles import Tile, fp16_tiles, int8_tiles

pytestmark = pytest.mark.usefixtures("poisoned_empty", "unknown_card")
CPU = torch.device("cpu")
LAUNCHERS = float_search, int8_search, launches
PERSISTENT = next(tile for tile in fp16_tiles(90) if tile.persistent)
WIDE_INT8 = next(tile for tile in int8_tiles(128, 90) if tile.block_p == 256)
WIDE = next(tile for tile in fp16_tiles(90) if tile.block_p == 256)
ULP = "(1 - 2.0**-24)"
NOTHING = "pass"
CUT = "(acc.to(tl.int32, bitcast=True) & -1024).to(tl.float32, bitcast=True)"
"""As if sums had 13 bits."""


class Sabotage(NamedTuple):
    """One line of one kernel, as it should not be."""

    kernel: str
    file: str
    old: str
    new: str
    screen: str
    metric: str
    masked: bool = False
    tile: Tile | None = None

    def __str__(self) -> str:
        return f"{self.kernel}: {self.new[:50]}"


SABOTAGES = [
    # Bounds that are too tight, by an ulp where every step is exact.
    Sabotage("scan_kernel", "float_scan", "best * a_q + r_q", f"(best * a_q + r_q) * {ULP}",
             "prepared", "cosine"),
    Sabotage("scan_kernel", "float_scan", "best + r_q if", f"(best + r_q) * {ULP} if",
             "prepared", "l2"),
    Sabotage("scan_kernel", "float_scan", "upper = acc * b_p + c_p", "upper = acc * b_p",
             "prepared", "dot", tile=WIDE),
    Sabotage("scan_persistent_kernel", "float_scan", "best * a_q + r_q",
             f"(best * a_q + r_q) * {ULP}", "prepared", "dot", tile=PERSISTENT),
    Sabotage("scan_codes_kernel", "int8_scan", "tl.abs(c)) * SCAN_MARGIN", "tl.abs(c)) * 0.0",
             "codes", "cosine"),
    Sabotage("scan_codes_kernel", "int8_scan", "x * (1.0 + SCAN_MARGIN) / a", "x / a / 2",
             "codes", "l2", tile=WIDE_INT8),
    Sabotage("scan_codes_kernel", "int8_scan", "slack = d[:, None] * size +", "slack =",
             "few codes", "dot"),
    Sabotage("settle_kernel", "int8_scan", "upper = gain * (", "upper = 0.5 * gain * (",
             "few codes", "dot"),
    Sabotage("scan_raw_kernel", "float_scan", "upper = acc + delta * longest[:, None] + c_p",
             "upper = acc + c_p", "raw", "dot"),
    Sabotage("scan_raw_kernel", "float_scan", "length * (1.0 + epsilon)", "length * 0.5",
             "raw", "dot"),
    Sabotage("scan_raw_kernel", "float_scan", "square * (1.0 - epsilon)", "square * 1.01",
             "raw", "l2"),
    Sabotage("threshold_kernel", "rescore", "lower = tl.min(least, axis=0)",
             "lower = tl.min(least, axis=0) + 2.0**-14", "prepared", "dot"),
    Sabotage("threshold_kernel", "rescore", "slack = 2.0 * delta\n", "slack = 1.999 * delta\n",
             "raw", "cosine"),
    Sabotage("settle_kernel", "settle", "found + n_found + k - 1", "found + n_found",
             "codes", "dot"),
    Sabotage("settle_kernel", "keys", "is_empty(keys), -INF,", "is_empty(keys), INF,",
             "few codes", "dot"),
    Sabotage("settle_kernel", "settle", "passed_over >= threshold, 0, n_first", "False, 0, n_first",
             "codes", "l2"),
    Sabotage("settle_kernel", "settle", "(look == 0) | (upper < cut)", "(upper < cut)",
             "codes", "dot"),
    Sabotage("scan_kernel", "float_scan", "tl.where(upper == upper, upper, INF)", "upper",
             "prepared", "dot"),
    Sabotage("scan_codes_kernel", "int8_scan", "best.to(tl.float32) >= least",
             "best.to(tl.float32) >= least + 1", "codes", "dot"),
    Sabotage("scan_raw_kernel", "float_scan", "tl.store(group_norm + offs_g, tl.max",
             "tl.store(group_norm + offs_g, tl.min", "raw", "l2"),
    Sabotage("scan_raw_kernel", "float_scan", "tl.maximum(tl.where(is_small, 0.0, length), EPS)",
             "tl.where(is_small, 0.0, length)", "raw", "cosine"),
    # Roundings that are not what a proof counts on.
    Sabotage("scan_kernel", "groups", "    return acc\n", f"    return {CUT}\n",
             "prepared", "cosine"),
    Sabotage("scan_raw_kernel", "float_scan", "        q_ptrs += TILE_C\n\n    finite",
             f"        acc = {CUT}\n        q_ptrs += TILE_C\n\n    finite", "raw", "cosine"),
    Sabotage("prepare_queries_kernel", "prepare", "copy = (q * factor[:, None])",
             "copy = (q * factor[:, None] * (1 - 2.0**-13))", "prepared", "dot"),
    Sabotage("prepare_queries_kernel", "prepare", "r = tl.zeros((BLOCK_Q,), tl.float64) + delta",
             f"r = tl.zeros((BLOCK_Q,), tl.float64) + delta * {ULP}", "raw", "cosine"),
    Sabotage("prepare_queries_kernel", "prepare", "tl.store(norm + offs_q, length)",
             "tl.store(norm + offs_q, length * (1 - 2.0**-53))", "prepared", "cosine"),
    Sabotage("code_queries_kernel", "prepare", "code = tl.floor(x / scale[:, None] + 0.5)",
             "code = tl.floor(x / scale[:, None] + 0.5) - 2", "codes", "cosine"),
    Sabotage("code_queries_kernel", "prepare", "error = tl.sqrt(fold(residuals, BLOCK_Q)) * RAISE",
             "error = tl.sqrt(fold(residuals, BLOCK_Q)) * 0.9", "few codes", "dot"),
    Sabotage("code_queries_kernel", "prepare", "shift -= 0.5 * origin_norm * origin_norm", NOTHING,
             "codes", "l2"),
    Sabotage("code_queries_kernel", "prepare", "shift = tl.where(matchable, shift, -INF)", NOTHING,
             "few codes", "cosine"),
    Sabotage("prepare_prototypes_kernel", "prepare", "(p * factor[:, None]).to(tl.float32)",
             "(p * factor[:, None] * (1 + 2.0**-12)).to(tl.float32)", "prepared", "cosine"),
    Sabotage("prepare_prototypes_kernel", "prepare", "c_p = b_p * (SCALE * SCALE) * delta",
             f"c_p = b_p * (SCALE * SCALE) * delta * {ULP}", "prepared", "dot"),
    Sabotage("rescore_kernel", "fp64", "score = score.to(tl.float32)",
             f"score = (score * {ULP}).to(tl.float32)", "prepared", "l2"),
    Sabotage("settle_kernel", "fp64", "score = score.to(tl.float32)",
             f"score = (score * {ULP}).to(tl.float32)", "few codes", "l2"),
    Sabotage("repair_kernel", "fp64", "x.to(tl.float32)", "x.to(tl.float16).to(tl.float32)",
             "prepared", "dot"),
    # Masks that are dropped, in whole or in part.
    Sabotage("scan_kernel", "float_scan", "bits_of(tl.load(words + offs_qg), TILE_P",
             "bits_of(tl.load(words + offs_qg) | 1, TILE_P", "prepared", "l2", True),
    Sabotage("scan_raw_kernel", "float_scan", "tl.load(at, mask=mask_pq, other=0) != 0",
             "tl.load(at, mask=mask_pq, other=0) >= 0", "raw", "cosine", True),
    Sabotage("scan_codes_kernel", "int8_scan", "bits_of(packed[None, :], TILE_P",
             "bits_of(packed[None, :] | 3, TILE_P", "codes", "l2"),
    Sabotage("scan_codes_kernel", "int8_scan", "tl.where((bits & 1) != 0, acc, LOWEST)",
             "acc", "few codes", "cosine"),
    Sabotage("scan_codes_kernel", "int8_scan", "wanted = began == NEVER", "wanted = began >= 0",
             "few codes", "dot"),
    Sabotage("scan_codes_kernel", "int8_scan", "hit &= (rank >= began)[:, None]", NOTHING,
             "codes", "dot"),
    Sabotage("pack_mask_kernel", "prepare", "allowed = tl.load(at, mask=allowed, other=0) != 0",
             NOTHING, "codes", "cosine", True),
    Sabotage("prepare_prototypes_kernel", "prepare", "exists & finite & (allowed != 0)",
             "exists & finite", "prepared", "cosine"),
    Sabotage("rescore_kernel", "groups", "allowed & (in_mask != 0)", "allowed",
             "raw", "cosine", True),
    Sabotage("pack_mask_kernel", "prepare", "row = offs_p // SPAN * SPAN + in_page",
             "row = in_page", "few codes", "dot", True),
    Sabotage("settle_kernel", "groups", "offs_p = offs_p // SPAN * SPAN + in_page",
             "offs_p = in_page", "codes", "cosine"),
    Sabotage("settle_kernel", "groups", "allowed & (in_mask != 0)", "allowed",
             "codes", "l2", True),
    # NaN in the words that lie where bounds will.
    Sabotage("pack_mask_kernel", "prepare", "packed, mask=mask_qg", "0x7FC00000, mask=mask_qg",
             "prepared", "l2", True),
    # Results that are lost or misplaced.
    Sabotage("rescore_kernel", "rescore",
             "first_row, n_channels, 1, stride_pp, stride_pc, METRIC, PACK *",
             "0, n_channels, 1, stride_pp, stride_pc, METRIC, PACK *", "prepared", "cosine"),
    Sabotage("rescore_kernel", "rescore", "live = (upper >= threshold)",
             "live = (upper >= threshold + 20)", "prepared", "dot"),
    Sabotage("repair_kernel", "rescore", "best = tl.where(best == worst, top, best)", NOTHING,
             "raw", "cosine"),
    Sabotage("repair_kernel", "rescore", "bounds + q * stride_bq + g + offs_g",
             "bounds + g + offs_g", "raw", "l2"),
    Sabotage("scan_codes_kernel", "int8_scan", "entry, mask=hit & (count < capacity)",
             "entry, mask=hit & (count < capacity - 1)", "codes", "cosine"),
    Sabotage("scan_codes_kernel", "int8_scan", "tl.where(tile >= p_tiles, tile - p_tiles, tile)",
             "tile", "few codes", "cosine"),
    Sabotage("settle_kernel", "settle", "is_lost = tl.max(count, axis=0) > capacity",
             "is_lost = tl.max(count, axis=0) < 0", "codes", "dot"),
    Sabotage("settle_kernel", "settle", "tl.atomic_add(flags + REPAIRED, 1)", NOTHING,
             "few codes", "l2"),
    Sabotage("settle_kernel", "settle", "tl.where(is_lost & (again != 0), 3, 2)", "2",
             "codes", "cosine"),
    Sabotage("settle_kernel", "settle", "first_row, n_channels, stride_qc",
             "0, n_channels, stride_qc", "codes", "l2"),
    Sabotage("settle_kernel", "settle", "at_row = tl.cumsum(chosen.to(tl.int32), axis=0) - 1",
             "at_row = tl.cumsum(chosen.to(tl.int32), axis=0)", "few codes", "cosine"),
    Sabotage("repair_kernel", "rescore", "tl.atomic_add(flags + REPAIRED, 1)", NOTHING,
             "raw", "l2"),
    Sabotage("scan_raw_kernel", "float_scan", " & (peak < INF)", "", "raw", "dot"),
    Sabotage("repair_kernel", "rescore", "new = tl.where(new == top, EMPTY, new)",
             "new = tl.where(new == top, EMPTY + 2, new)", "raw", "l2"),
    # What does not compile.
    Sabotage("scan_kernel", "float_scan", "GROUPS: tl.constexpr = BLOCK_P // GROUP",
             "GROUPS: tl.constexpr = nowhere", "prepared", "cosine"),
]  # fmt: skip


def variant_of(sabotage: Sabotage) -> Variant:
    """The default of a screen and metric, or as near to it as the sabotage shows."""
    found = next(
        variant
        for variant in variants.defaults(chips.chip(CPU))
        if (variant.screen, variant.metric) == (sabotage.screen, sabotage.metric)
    )
    tile = sabotage.tile or found.tile
    return dataclasses.replace(found, masked=sabotage.masked, tile=tile)


def all_kernels() -> set[str]:
    return {name for module in LAUNCHERS for name in vars(module) if name.endswith("_kernel")}


def test_every_kernel_is_sabotaged() -> None:
    assert {sabotage.kernel for sabotage in SABOTAGES} == all_kernels()


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=str)
def test_a_kernel_that_is_altered_is_found(
    sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alter(monkeypatch, tmp_path, sabotage.file, sabotage.old, sabotage.new)
    monkeypatch.setattr(all_checks, "failures", lambda *of: list(islice(all_checks.found(*of), 1)))
    wrong = verdicts.found_wrong(CPU, variant_of(sabotage))
    assert wrong
    assert all(str(variant_of(sabotage)) in text for text in wrong)


MORE = [
    dataclasses.replace(variant_of(s), held=k)
    for s, k in ((SABOTAGES[2], 16), (SABOTAGES[3], 16), (SABOTAGES[5], 1024), (SABOTAGES[0], 128))
]
MORE.append(dataclasses.replace(MORE[0], queries=torch.float64, prototypes=torch.float64))
MORE.append(dataclasses.replace(MORE[2], queries=torch.float16, prototypes=torch.float32))


@pytest.mark.parametrize("variant", MORE, ids=str)
def test_other_variants_are_right(variant: Variant) -> None:
    """Wide and persistent tiles, more ranks, fp64, mixed dtypes."""
    assert all_checks.failures(variant, CPU) == []


def test_every_default_is_right_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernels.selfcheck()
    assert found
    assert len(found.passed) == 12
    assert "12 of 12 variants are right on cpu" in str(found)
    assert verdict_file.read(CPU) == set(found.passed)
    monkeypatch.setattr(verdicts, "_verdicts", {})
    monkeypatch.setattr(all_checks, "failures", None)  # nothing is checked again
    assert verdicts.why_unproven(CPU, variants.defaults(chips.chip(CPU))) == ""


def test_the_callers_defaults_are_no_matter() -> None:
    """Nor are numbers drawn from the caller's generator."""
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            for variant in (MORE[0], MORE[2]):
                assert all_checks.failures(variant, CPU) == []
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
