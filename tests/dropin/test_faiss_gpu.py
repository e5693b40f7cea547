"""Moves between devices: what a machine without CUDA can know of them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import flashmatch.adapters.faiss as ours
from flashmatch.adapters.faiss import gpu

X = np.arange(24, dtype=np.float32).reshape(6, 4) ** 2
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def made(kind: str = "IDMap2,L2norm,Flat") -> ours.Index:
    index = ours.index_factory(4, kind)
    index.add_with_ids(X, np.arange(6) * 7) if "IDMap" in kind else index.add(X)
    return index


def test_devices_are_counted_by_torch() -> None:
    assert ours.get_num_gpus() == torch.cuda.device_count()
    assert ("GPU" in ours.get_compile_options()) == torch.cuda.is_available()


@without_cuda
@pytest.mark.parametrize(
    "call",
    [
        lambda: ours.index_cpu_to_gpu(ours.StandardGpuResources(), 0, made()),
        lambda: ours.index_cpu_to_gpus_list(made(), gpus=[0]),
        lambda: ours.index_cpu_to_gpu_multiple([], [0], made()),
        lambda: ours.index_cpu_to_all_gpus(made(), ngpu=1),
        lambda: ours.knn_gpu(ours.StandardGpuResources(), X, X, 2),
        lambda: ours.GpuIndexFlatL2(ours.StandardGpuResources(), 4),
        lambda: ours.GpuIndexFlatIP(ours.StandardGpuResources(), 4, ours.GpuIndexFlatConfig()),
    ],
)
def test_without_cuda(call: Callable) -> None:
    with pytest.raises(RuntimeError, match=r"torch sees none|0 CUDA devices"):
        call()


@without_cuda
def test_all_of_none_is_the_cpu() -> None:
    for index in (made(), made("Flat")):
        moved = ours.index_cpu_to_all_gpus(index, co=ours.GpuMultipleClonerOptions())
        assert type(moved) is type(index)
        assert moved.search(X, 2)[1].tolist() == index.search(X, 2)[1].tolist()


@pytest.mark.parametrize("kind", ["Flat", "IDMap2,Flat", "L2norm,Flat", "IDMap2,L2norm,Flat"])
def test_an_index_that_was_moved_is_its_own(kind: str) -> None:
    index = made(kind)
    index.search(X, 1)  # some prepared, some only added
    index.add_with_ids(X[:1], [99]) if "IDMap" in kind else index.add(X[:1])
    expected = index.search(X, 7)
    for twin in (ours.index_gpu_to_cpu(index), ours.index_gpu_to_cpu(made_by_moving(index))):
        np.testing.assert_array_equal(twin.search(X, 7), expected)
        twin.remove_ids(np.array([0, 1]))
        twin.add_sa_codes(twin.sa_encode(X[:3]), np.arange(3) if "IDMap" in kind else None)
        assert (index.ntotal, twin.ntotal) == (7, 9 if "IDMap" in kind else 8)
        np.testing.assert_array_equal(index.search(X, 7), expected)


def made_by_moving(index: ours.Index) -> ours.Index:
    """As to another device: contents are taken apart, and lie where they are put."""
    twin = ours.index_gpu_to_cpu(index)
    flat = twin._flat
    flat._states = type(flat._states)(flat._states.newest.on(torch.device("cpu")))
    return twin


def test_devices_are_chosen_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    places: list[torch.device] = []
    monkeypatch.setattr(gpu, "moved", lambda index, device: places.append(device))
    ours.index_cpu_to_gpu(None, 1, made())
    ours.index_cpu_to_gpu(None, np.int32(0), made(), ours.GpuClonerOptions())
    ours.index_cpu_to_gpus_list(made(), gpus=[1, 0])
    ours.index_cpu_to_gpus_list(made())
    ours.index_cpu_to_all_gpus(made(), ngpu=2)
    ours.index_cpu_to_gpu_multiple([None], [1], made())
    ours.index_cpu_to_gpu(None, -1, made())
    assert [place.index for place in places] == [1, 0, 1, 0, 0, 1, 1]
    for call, error, message in (
        (lambda: ours.index_cpu_to_gpu(None, 2, made()), ValueError, "device must be below the 2"),
        (lambda: ours.index_cpu_to_gpu(None, "0", made()), TypeError, "device must be an int"),
        (lambda: ours.index_cpu_to_all_gpus(made(), ngpu=3), RuntimeError, "ngpu .* got 3"),
        (lambda: ours.index_cpu_to_gpus_list(made(), gpus=[]), ValueError, "gpus must have"),
        (lambda: ours.index_cpu_to_gpus_list(made(), gpus=[0, 5]), ValueError, "gpus .* got 5"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_what_is_no_index() -> None:
    with pytest.raises(TypeError, match="index must be an index of this module; got ndarray"):
        ours.index_gpu_to_cpu(X)


def test_options_are_taken() -> None:
    resources = ours.StandardGpuResources()
    resources.noTempMemory()
    resources.setTempMemory(1 << 20)
    resources.setPinnedMemory(0)
    resources.setDefaultNullStreamAllDevices()
    resources.syncDefaultStreamCurrentDevice()
    options, config = ours.GpuMultipleClonerOptions(), ours.GpuIndexFlatConfig()
    options.useFloat16 = options.shard = config.useFloat16 = True
    config.device = 0
    for holder in (options, config, ours.GpuClonerOptions()):
        with pytest.raises(AttributeError):
            holder.nprobe = 3


@with_cuda
def test_on_a_device() -> None:
    index, resources = made(), ours.StandardGpuResources()
    there = ours.index_cpu_to_gpu(resources, 0, index)
    assert there._flat.device.type == "cuda"
    back = ours.index_gpu_to_cpu(there)
    for one in (there, back, ours.index_cpu_to_all_gpus(index)):
        np.testing.assert_array_equal(one.search(X, 3), index.search(X, 3))
    there.add_with_ids(X, np.arange(6))
    assert (there.ntotal, index.ntotal) == (12, 6)
    flat = ours.GpuIndexFlatL2(resources, 4)
    flat.add(X)
    for a, b in zip(flat.search(X, 3), ours.knn_gpu(resources, X, X, 3), strict=True):
        np.testing.assert_array_equal(a, b)
