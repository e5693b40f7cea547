"""What the data sheets say of chips, and which chip a device is taken for."""

from types import SimpleNamespace

import pytest

from flashmatch.kernels._chips import (
    A100,
    B200,
    CHIPS,
    H100,
    L4,
    MI300X,
    RTX_4090,
    Chip,
    chip_of,
)


def device(name: str, major: int, minor: int, count: int, **more) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, major=major, minor=minor, multi_processor_count=count, **more
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (device("NVIDIA H100 80GB HBM3", 9, 0, 132), H100),
        (device("NVIDIA A100-SXM4-80GB", 8, 0, 108), A100),
        (device("NVIDIA GeForce RTX 4090", 8, 9, 128), RTX_4090),
        (device("NVIDIA L4", 8, 9, 58), L4),
        (device("NVIDIA B200", 10, 0, 148), B200),
        (device("AMD Instinct MI300X", 9, 4, 304, gcnArchName="gfx942:sramecc+"), MI300X),
    ],
    ids=lambda value: value.name,
)
def test_chips_are_known_by_name(found: SimpleNamespace, expected) -> None:
    assert chip_of(found) == expected


def test_scaling_leaves_memory_alone() -> None:
    half = H100.scaled(66)
    assert (half.int8, half.fp64) == (H100.int8 / 2, H100.fp64 / 2)
    assert (half.bandwidth, half.cache_bytes) == (H100.bandwidth, H100.cache_bytes)


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_rates_are_dense_and_in_proportion(chip: Chip) -> None:
    """Integers at least twice as fast as fp16, that twice as fast as TF32, each in whole clocks."""
    assert 1.9 <= chip.int8 / chip.fp16 <= 4.1
    assert 1.9 <= chip.fp16 / chip.tf32 <= 2.1
    a_clock = chip.fp16 / chip.multiprocessors / chip.clock
    assert any(a_clock == pytest.approx(2**n, rel=0.05) for n in (9, 10, 11, 12, 13))


def test_l4_is_not_l40s() -> None:
    assert chip_of(device("NVIDIA L40S", 8, 9, 142)).name == "L40S"


def test_an_unknown_chip_is_the_nearest_with_its_own_multiprocessors() -> None:
    found = chip_of(device("NVIDIA A30", 8, 0, 56))
    assert (found.name, found.arch, found.multiprocessors) == ("NVIDIA A30", 80, 56)
    assert found.fp16 == pytest.approx(A100.fp16 * 56 / 108)
    assert found.bandwidth == A100.bandwidth
    assert chip_of(device("GeForce RTX 4060", 8, 9, 24)).cache_bytes == L4.cache_bytes
    assert chip_of(device("A100 PCIe", 8, 0, 99)).multiprocessors == 99
    assert chip_of(device("AMD Radeon", 9, 4, 228, gcnArchName="gfx942")).warp == 64
