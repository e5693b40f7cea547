"""Addresses that need 64 bits, for real: more than 2^31 elements in one tensor."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA or ROCm device", allow_module_level=True)
pytest.importorskip("triton")

from flashmatch import PrototypeBank, topk

ROWS, CHANNELS = 4_500_000, 512  # 2.3e9 elements, 4.3 GiB in fp16
NEEDED_BYTES = 14 * 2**30
FEW_AND_MANY = [3, 200]


@pytest.fixture(scope="module")
def prototypes() -> Iterator[Tensor]:
    if torch.cuda.mem_get_info()[0] < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES >> 30} GiB of free device memory")
    generator = torch.Generator("cuda").manual_seed(1)
    rows = torch.empty(ROWS, CHANNELS, dtype=torch.float16, device="cuda")
    for part in rows.split(500_000):
        part.copy_(torch.randn(part.shape, generator=generator, device="cuda"))
    assert rows.numel() > 2**31
    yield rows
    del rows
    torch.cuda.empty_cache()


@pytest.mark.parametrize("queries", FEW_AND_MANY)
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_the_last_rows_find_themselves(prototypes: Tensor, metric: str, queries: int) -> None:
    """A Gaussian row's product with itself is some ten times any other's."""
    found = topk(prototypes[-queries:].float(), prototypes, 2, metric=metric)
    assert found.indices[:, 0].tolist() == list(range(ROWS - queries, ROWS))


@pytest.mark.parametrize("queries", FEW_AND_MANY)
def test_a_bank_finds_them_too(prototypes: Tensor, queries: int) -> None:
    bank, rows = PrototypeBank(prototypes, metric="dot"), prototypes[-queries:].float()
    assert bank.screen == "int8"
    found, direct = bank.topk(rows, 10), topk(rows, prototypes, 10, metric="dot")
    assert found.indices[:, 0].tolist() == list(range(ROWS - queries, ROWS))
    assert torch.equal(found.indices, direct.indices)
    assert torch.equal(found.scores, direct.scores)


@pytest.mark.parametrize("few", [5, 500])
def test_pair_masks_beyond_two_gibibytes(prototypes: Tensor, few: int) -> None:
    """Only the last thousand may match, which is a search of its own."""
    mask = torch.zeros(500, ROWS, dtype=torch.bool, device="cuda")
    assert mask.numel() > 2**31
    mask[:, -1000:] = torch.rand(500, 1000, device="cuda") < 0.5
    queries, own = prototypes[:500].float()[-few:], mask[-few:]  # the rows of the far end
    expected = topk(queries, prototypes[-1000:], 5, mask=own[:, -1000:].contiguous())
    bank = PrototypeBank(prototypes)
    for found in (topk(queries, prototypes, 5, mask=own), bank.topk(queries, 5, mask=own)):
        assert torch.equal(found.indices, expected.indices + ROWS - 1000)
        assert torch.equal(found.scores, expected.scores)
