"""Packs hold what a tensor would, whatever is written to them, and multiply it alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from screens import needs_fbgemm

from flashmatch.kernels.codes import held
from flashmatch.kernels.codes.held import PackedCodes, PlainCodes

pytestmark = [needs_fbgemm, pytest.mark.usefixtures("poisoned_empty")]
CPU, SPAN, WIDTH = torch.device("cpu"), 8, 12


@pytest.fixture(scope="module", autouse=True)
def _packs_of_four_pages() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, "PACK_ROWS", 5 * SPAN)
        yield


def drawn(pages: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = pages * SPAN, WIDTH - seed % 3
    return torch.randint(-127, 128, shape, generator=generator).to(torch.int8)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9), st.booleans()), max_size=8))
def test_what_is_written_is_read(writes: list[tuple[float, int, bool]]) -> None:
    packs, seen = PackedCodes(WIDTH, SPAN), torch.empty(0, WIDTH, dtype=torch.int8)
    assert packs.pack_rows == 4 * SPAN
    for seed, (share, pages, is_kept) in enumerate(writes):
        before, rows = packs, seen
        first = round(share * (len(seen) // SPAN)) * SPAN
        if is_kept:  # what a bank does, whose states share what they have in common
            packs = packs.kept(first)
        codes = drawn(pages, seed)
        plain = PlainCodes(first + len(codes), WIDTH, CPU)
        plain.write(0, seen[:first])
        plain.write(first, codes)
        seen = plain.read(0, first + len(codes))
        packs.write(first, codes)
        packs.seal()
        assert torch.equal(packs.read(0, len(seen)), seen)
        assert len(packs.packs) == -(-len(seen) // packs.pack_rows)
        if is_kept:
            assert torch.equal(before.read(0, len(rows)), rows)


@given(st.integers(1, 3), st.integers(1, 11), st.data())
def test_any_run_of_pages_is_multiplied(count: int, pages: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, pages - 1)) * SPAN
    stop = data.draw(st.integers(first // SPAN + 1, pages)) * SPAN
    packs, codes = PackedCodes(WIDTH, SPAN), drawn(pages, 0)
    packs.write(0, codes)
    packs.seal()
    queries = drawn(1, 1)[:count].clamp(-63, 63)
    room = torch.empty(count * pages * SPAN)
    found = packs.multiply(packs.operand(queries), first, stop, room)
    wanted = queries.long() @ codes[first:stop, : queries.shape[1]].long().T
    assert found.dtype == packs.dtype
    assert found.is_contiguous()
    assert torch.equal(found.long(), wanted)


@pytest.mark.parametrize(
    ("width", "pages"), [(4, 8), (512, 8), (516, 4), (768, 4), (1024, 4), (5000, 1), (32_768, 1)]
)
def test_packs_are_of_few_elements(width: int, pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "PACK_ROWS", 1 << 13)
    assert PackedCodes(width, 1024).pack_rows == pages * 1024
