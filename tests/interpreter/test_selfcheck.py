"""Each kernel altered in one place: the selfcheck finds it, and nobody gets its answer."""

import dataclasses
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from altered import alter

from flashmatch import kernels
from flashmatch.kernels.triton_backend import chips, stages, vector_search
from flashmatch.kernels.triton_backend.selfcheck import verdict_file, verdicts
from flashmatch.kernels.triton_backend.selfcheck.checks import all_checks, variants
from flashmatch.kernels.triton_backend.selfcheck.checks.variants import Variant
from flashmatch.kernels.triton_backend.tiles import Tile, int8_tiles

pytestmark = pytest.mark.usefixtures("poisoned_empty", "unknown_card")
CPU = torch.device("cpu")
LAUNCHERS = stages, vector_search
WIDE_INT8 = next(tile for tile in int8_tiles(128, 90) if tile.block_p == 256)
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
    # Queries and prototypes that are not what they were.
    Sabotage("fit_origin_kernel", "prototypes", "(n_rows - 1) // 2", "n_rows - 1",
             "passing", "dot"),
    Sabotage("fit_origin_kernel", "prototypes", "(tl.abs(x) < LARGEST_NORM)", "(x == x)",
             "passing", "cosine"),
    Sabotage("code_prototypes_kernel", "prototypes", "residual * summed + computed, INF",
             "residual * 0.9, INF", "passing", "cosine"),
    Sabotage("code_prototypes_kernel", "prototypes", "(norm + residual) * summed + floor",
             "norm * 0.99", "passing", "dot"),
    Sabotage("code_prototypes_kernel", "prototypes", "bias = least * least * (-0.5 / RAISE)",
             "bias = least * least * -0.6", "passing", "l2"),
    Sabotage("code_prototypes_kernel", "prototypes", "x * inverse[:, None] - o", "x - o",
             "passing", "cosine"),
    Sabotage("code_prototypes_kernel", "prototypes", "square <= LARGEST_NORM * LARGEST_NORM",
             "square == square", "passing", "cosine"),
    Sabotage("code_prototypes_kernel", "prototypes", "* summed + floor, INF)",
             "* summed + floor, 0.0)", "passing", "cosine"),
    Sabotage("order_rows_kernel", "prototypes", "other[None, :] < own[:, None]",
             "other[None, :] > own[:, None]", "passing", "l2"),
    Sabotage("order_rows_kernel", "prototypes", "in_tile % GROUP * GROUPS + in_tile // GROUP",
             "in_tile", "passing", "l2"),
    Sabotage("code_prototypes_kernel", "prototypes", "exists & finite\n", "exists\n",
             "passing", "dot"),
    Sabotage("code_prototypes_kernel", "prototypes", "tl.store(scan_terms + 2, (e * (1.0 +",
             "tl.store(scan_terms + 2, (0.5 * e * (1.0 +", "passing", "l2"),
    Sabotage("code_prototypes_kernel", "prototypes", "other=0) != 0\n", "other=0) >= 0\n",
             "passing", "l2"),
    Sabotage("scale_queries_kernel", "prepare", "copy = (q * factor[:, None])",
             "copy = (q * factor[:, None] * (1 - 2.0**-13))", "tf32", "dot"),
    Sabotage("scale_queries_kernel", "prepare", "a, r = one, one * delta",
             f"a, r = one, one * delta * {ULP}", "tf32", "cosine"),
    Sabotage("scale_queries_kernel", "prepare", "tl.store(norm + offs_q, length)",
             "tl.store(norm + offs_q, length * (1 - 2.0**-53))", "tf32", "cosine"),
    Sabotage("scale_queries_kernel", "prepare", "found = scores + offs_q * k + k - 1",
             "found = scores + offs_q * k", "tf32", "l2"),
    Sabotage("scale_queries_kernel", "prepare", "tl.store(indices + at, -1, mask=mask)", NOTHING,
             "tf32", "dot"),
    Sabotage("code_queries_kernel", "prepare", "    if is_first:", "    if is_first == 0:",
             "passing", "dot"),
    # Bounds that are too tight, roundings that are not what a proof counts on.
    Sabotage("scan_rows_kernel", "tf32_scan", "upper = acc + delta * longest[:, None] + c_p",
             "upper = acc + c_p", "tf32", "dot"),
    Sabotage("scan_rows_kernel", "tf32_scan", "length * (1.0 + epsilon)", "length * 0.5",
             "tf32", "dot"),
    Sabotage("scan_rows_kernel", "tf32_scan", "square * (1.0 - epsilon)", "square * 1.01",
             "tf32", "l2"),
    Sabotage("scan_rows_kernel", "tf32_scan", "tl.maximum(tl.where(is_small, 0.0, length), EPS)",
             "tl.where(is_small, 0.0, length)", "tf32", "cosine"),
    Sabotage("scan_rows_kernel", "tf32_scan", "        q_ptrs += TILE_C\n\n    finite",
             f"        acc = {CUT}\n        q_ptrs += TILE_C\n\n    finite", "tf32", "cosine"),
    Sabotage("scan_rows_kernel", "tf32_scan", "(bound >= least[:, None])",
             "(bound > least[:, None] + 1)", "tf32", "dot"),
    Sabotage("scan_rows_kernel", "tf32_scan", "hit &= (rank >= began)[:, None]", NOTHING,
             "tf32", "l2"),
    Sabotage("scan_rows_kernel", "tf32_scan", " & (peak < INF)", "", "tf32", "dot"),
    Sabotage("scan_rows_kernel", "tf32_scan", "(bits & 1) != 0, upper", "(bits & 1) >= 0, upper",
             "tf32", "cosine", True),
    Sabotage("settle_kernel", "settle", "upper = ordered(best).to(tl.float32, bitcast=True)",
             "upper = best.to(tl.float32)", "tf32", "l2"),
    Sabotage("settle_kernel", "settle", "bound = tl.full((MEMBERS,), INF, tl.float32)",
             "bound = tl.full((MEMBERS,), 0.0, tl.float32)", "tf32", "cosine"),
    # A search in one launch.
    Sabotage("settle_all_kernel", "settle", "(in_mask != 0) & (key != EMPTY)", "key != EMPTY",
             "whole", "dot"),
    Sabotage("settle_all_kernel", "settle", "exists & finite & (key == EMPTY)", "key != key",
             "whole", "l2"),
    Sabotage("settle_all_kernel", "keys", "<< (63 - i)", "<< (62 - i)", "whole", "cosine"),
    Sabotage("settle_all_kernel", "fp64", "score = score.to(tl.float32)",
             f"score = (score * {ULP}).to(tl.float32)", "whole", "l2"),
    # A search of codes.
    Sabotage("scan_codes_kernel", "int8_scan", "tl.abs(c)) * SCAN_MARGIN", "tl.abs(c)) * 0.0",
             "bank", "cosine"),
    Sabotage("scan_codes_kernel", "int8_scan", "x * (1.0 + SCAN_MARGIN) / a", "x / a / 2",
             "bank", "l2", tile=WIDE_INT8),
    Sabotage("scan_codes_kernel", "int8_scan", "slack = d[:, None] * size +", "slack =",
             "few bank", "dot"),
    Sabotage("settle_kernel", "int8_scan", "upper = gain * (", "upper = 0.5 * gain * (",
             "few bank", "dot"),
    Sabotage("settle_kernel", "keys", "found + n_found + k - 1", "found + n_found",
             "bank", "dot"),
    Sabotage("settle_kernel", "keys", "is_empty(keys), -INF,", "is_empty(keys), INF,",
             "few bank", "dot"),
    Sabotage("settle_kernel", "settle", "passed_over >= threshold, 0, n_first", "False, 0, n_first",
             "bank", "l2"),
    Sabotage("settle_kernel", "settle", "(look == 0) | (upper < cut)", "(upper < cut)",
             "bank", "dot"),
    Sabotage("scan_codes_kernel", "int8_scan", "best.to(tl.float32) >= least",
             "best.to(tl.float32) >= least + 1", "bank", "dot"),
    Sabotage("code_queries_kernel", "prepare", "code = tl.floor(x / scale[:, None] + 0.5)",
             "code = tl.floor(x / scale[:, None] + 0.5) - 2", "bank", "cosine"),
    Sabotage("code_queries_kernel", "prepare", "error = tl.sqrt(fold(residuals, BLOCK_Q)) * RAISE",
             "error = tl.sqrt(fold(residuals, BLOCK_Q)) * 0.9", "few bank", "dot"),
    Sabotage("code_queries_kernel", "prepare", "shift -= 0.5 * origin_norm * origin_norm", NOTHING,
             "bank", "l2"),
    Sabotage("code_queries_kernel", "prepare", "shift = tl.where(matchable, shift, -INF)", NOTHING,
             "few bank", "cosine"),
    Sabotage("rotate_queries_kernel", "prepare", "tl.store(first + step, a - b",
             "tl.store(first + step, b - a", "bank", "dot"),
    Sabotage("rotate_queries_kernel", "prepare", "x -= tl.load(origin + at",
             "x -= 0.0 * tl.load(origin + at", "bank", "l2"),
    Sabotage("rotate_queries_kernel", "prepare", "hadamard(rotated + rest", "hadamard(rotated",
             "few bank", "cosine"),
    Sabotage("settle_kernel", "fp64", "score = score.to(tl.float32)",
             f"score = (score * {ULP}).to(tl.float32)", "few bank", "l2"),
    Sabotage("scan_codes_kernel", "int8_scan", "bits_of(packed[None, :], TILE_P",
             "bits_of(packed[None, :] | 3, TILE_P", "bank", "l2"),
    Sabotage("scan_codes_kernel", "int8_scan", "tl.where((bits & 1) != 0, acc, LOWEST)",
             "acc", "few bank", "cosine"),
    Sabotage("scan_codes_kernel", "groups", "wanted = began == NEVER", "wanted = began >= 0",
             "few bank", "dot"),
    Sabotage("scan_codes_kernel", "int8_scan", "hit &= (rank >= began)[:, None]", NOTHING,
             "bank", "dot"),
    Sabotage("pack_mask_kernel", "groups", "allowed = tl.load(at, mask=allowed, other=0) != 0",
             NOTHING, "bank", "cosine", True),
    Sabotage("pack_mask_kernel", "groups", "row = offs_p // SPAN * SPAN + in_page",
             "row = in_page", "few bank", "dot", True),
    Sabotage("settle_kernel", "groups", "offs_p = offs_p // SPAN * SPAN + in_page",
             "offs_p = in_page", "bank", "cosine"),
    Sabotage("settle_kernel", "groups", "allowed & (in_mask != 0)", "allowed",
             "bank", "l2", True),
    Sabotage("scan_codes_kernel", "groups", "entry, mask=hit & (place < capacity)",
             "entry, mask=hit & (place < capacity - 1)", "bank", "cosine"),
    Sabotage("scan_codes_kernel", "groups", "place = count + tl.cumsum(number, axis=1) - number",
             "place = count", "few bank", "l2"),
    Sabotage("scan_codes_kernel", "int8_scan", "tl.where(tile >= p_tiles, tile - p_tiles, tile)",
             "tile", "few bank", "cosine"),
    Sabotage("settle_kernel", "settle", "is_lost = tl.max(count, axis=0) > capacity",
             "is_lost = tl.max(count, axis=0) < 0", "bank", "dot"),
    Sabotage("settle_kernel", "settle", "tl.atomic_add(flags + REPAIRED, 1)", NOTHING,
             "few bank", "l2"),
    Sabotage("settle_kernel", "settle", "tl.where(is_lost & (again != 0), 3, 2)", "2",
             "bank", "cosine"),
    Sabotage("settle_kernel", "settle", "first_row, n_channels, stride_qc",
             "0, n_channels, stride_qc", "bank", "l2"),
    Sabotage("settle_kernel", "settle", "at_row = tl.cumsum(chosen.to(tl.int32), axis=0) - 1",
             "at_row = tl.cumsum(chosen.to(tl.int32), axis=0)", "few bank", "cosine"),
    # What does not compile.
    Sabotage("scan_codes_kernel", "int8_scan", "GROUPS: tl.constexpr = BLOCK_P // GROUP",
             "GROUPS: tl.constexpr = nowhere", "bank", "cosine"),
]  # fmt: skip
SCREENS = {
    "tf32": (variants.TF32, True),
    "passing": (variants.PASSING, False),
    "few bank": (variants.BANK, True),
    "bank": (variants.BANK, False),
    "whole": (variants.WHOLE, True),
}
"""By the names above: a variant's screen, and whether it is of few queries."""


def variant_of(sabotage: Sabotage) -> Variant:
    """The default of a screen and metric, or as near to it as the sabotage shows."""
    found = next(
        variant
        for variant in variants.defaults(chips.chip(CPU))
        if (variant.screen, variant.few) == SCREENS[sabotage.screen]
        and variant.metric == sabotage.metric
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


def _variant(screen: str, metric: str, **changes: object) -> Variant:
    named = Sabotage("", "", "", "", screen, metric)
    return dataclasses.replace(variant_of(named), **changes)


MORE = [
    _variant("bank", "l2", slots=1024, tile=WIDE_INT8),
    _variant("passing", "cosine", queries=torch.float64, prototypes=torch.float64),
    _variant("tf32", "dot", slots=1024, queries=torch.float64, prototypes=torch.float32),
    _variant("whole", "dot", queries=torch.float64, prototypes=torch.bfloat16),
]


@pytest.mark.parametrize("variant", MORE, ids=str)
def test_other_variants_are_right(variant: Variant) -> None:
    """Wide tiles, few slots, fp64, mixed dtypes."""
    assert all_checks.failures(variant, CPU) == []


def test_every_default_is_right_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernels.selfcheck()
    assert found
    assert len(found.passed) == 15
    assert "15 of 15 variants are right on cpu" in str(found)
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
            for variant in MORE[2:]:
                assert all_checks.failures(variant, CPU) == []
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
