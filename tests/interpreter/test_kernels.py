"""Small kernels of the Triton backend against plain torch, through the launchers that ship."""

import pytest
import torch
import triton
import triton.language as tl
from by_triton import codes_plan, prepared_codes, prepared_vectors, vectors_plan
from coded import coded
from problems import Problem, vectors
from torch import Tensor

from flashmatch.kernels.codes.frame import Frame
from flashmatch.kernels.codes.rotation import Rotation
from flashmatch.kernels.contract import order
from flashmatch.kernels.contract.metrics import COSINE_EPS
from flashmatch.kernels.triton_backend import stages
from flashmatch.kernels.triton_backend.bank_search import LAYOUT
from flashmatch.kernels.triton_backend.device import keys as device_keys
from flashmatch.kernels.triton_backend.tiles import GROUP, TILE_P

pytestmark = pytest.mark.usefixtures("poisoned_empty")


@triton.jit
def twins_kernel(scores, indices, keys, back, N: tl.constexpr):
    offs = tl.arange(0, N)
    packed = device_keys.pack(tl.load(scores + offs), tl.load(indices + offs))
    tl.store(keys + offs, packed)
    tl.store(back + offs, device_keys.scores_of(tl.load(keys + offs)))


def test_keys_are_the_twins_of_order() -> None:
    tiny = torch.finfo(torch.float32).smallest_normal
    edges = [0.0, 1.0, -1.0, torch.inf, -torch.inf, tiny, -tiny, 3e38, -3e38, 1e-45, -1e-45]
    scores = torch.cat([torch.tensor(edges), torch.randn(64 - len(edges))])
    indices = torch.randint(order.MAX_ROWS, (64,))
    indices[:2] = torch.tensor([0, order.MAX_ROWS - 1])
    keys, back = torch.empty(64, dtype=torch.int64), torch.empty(64)
    twins_kernel[(1,)](scores, indices, keys, back, 64)
    assert torch.equal(keys, order.pack(scores, indices))
    assert torch.equal(back, scores)


def test_empty_has_no_score() -> None:
    @triton.jit
    def kernel(keys, back, N: tl.constexpr):
        offs = tl.arange(0, N)
        tl.store(back + offs, device_keys.scores_of(tl.load(keys + offs)))

    keys, back = order.EMPTY + torch.arange(16), torch.empty(16)
    kernel[(1,)](keys, back, 16)
    assert torch.equal(back, torch.full((16,), -torch.inf))


def bits_of(words: Tensor) -> Tensor:
    """(n, groups) words -> (n, positions) bools."""
    bits = ((words[:, :, None] >> torch.arange(GROUP)) & 1).bool()
    tiles = bits.view(len(words), -1, TILE_P // GROUP, GROUP)
    return tiles.transpose(2, 3).flatten(1)


def expected_bits(allowed: Tensor, rows: Tensor) -> Tensor:
    """(n, M) bools by row -> by position, whose rows are given."""
    padded = torch.nn.functional.pad(allowed, (0, int(rows.max()) + 1 - allowed.shape[1]))
    return padded[:, rows]


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize(
    ("screen", "queries"),
    [("tf32", 3), ("codes in passing", 3), ("codes in passing", 17), ("bank", 17)],
)
def test_words_of_pairs_are_written_for_padding_too(
    screen: str, metric: str, queries: int, rows_at
) -> None:
    """Scans read the words of whole tiles of queries, and codes may lie in another order."""
    generator = torch.Generator().manual_seed(1)
    channels = 64 if screen == "tf32" else 20
    q, p = (vectors("gaussian", n, channels, generator).float() for n in (queries, 140))
    pairs = torch.rand(queries, 140, generator=generator) < 0.5
    problem = Problem(q, [p], 3, metric, pairs)
    if screen == "bank":
        codes = coded([p], metric, LAYOUT)
        block, run = prepared_codes(problem, codes, codes_plan(problem, codes))
    else:
        block, run = prepared_vectors(problem, vectors_plan(problem))
    words = stages.words_of(block, run)
    assert words is not None
    assert words.shape == (block.padded, 256 // GROUP)
    assert torch.equal(bits_of(words[:queries]), expected_bits(pairs, rows_at(run)))
    assert not words[queries:].any()


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("screen", ["tf32", "codes in passing", "bank"])
def test_words_of_masks_of_rows_are_one_for_all_queries(screen: str, metric: str, rows_at) -> None:
    """Codes made in passing have them already, and the TF32 screen needs none without a mask."""
    generator = torch.Generator().manual_seed(1)
    channels = 64 if screen == "tf32" else 20
    q, p = (vectors("gaussian", n, channels, generator).float() for n in (3, 140))
    p[9, 3] = torch.nan
    mask = torch.rand(140, generator=generator) < 0.5
    for given in (mask, None):
        problem = Problem(q, [p], 3, metric, given, "exclude")
        if screen == "bank":
            codes = coded([p], metric, LAYOUT)
            block, run = prepared_codes(problem, codes, codes_plan(problem, codes))
        else:
            block, run = prepared_vectors(problem, vectors_plan(problem))
        words = stages.words_of(block, run)
        if screen == "tf32" and given is None:
            assert words is None
            continue
        allowed = torch.ones(140, dtype=torch.bool) if given is None else mask.clone()
        if screen != "tf32":
            allowed[9] = False
        assert words is not None
        assert torch.equal(bits_of(words), expected_bits(allowed[None], rows_at(run)))
        assert (run.coded is not None and words.data_ptr() == run.coded.words.data_ptr()) == (
            screen == "codes in passing" or given is None
        )


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("channels", [1, 2, 3, 64, 100, 512, 1000, 1025, 1536])
def test_queries_are_rotated_as_prototypes_are(channels: int, metric: str) -> None:
    """Powers of two and widths between, shorter and longer than a program takes at a time."""
    generator = torch.Generator().manual_seed(channels)
    whole = vectors("gaussian", 4, 2 * channels, generator)
    queries, origin = whole[::2, ::2].half(), whole[1, :channels].float()
    frame = Frame(metric, origin, Rotation(channels, 3, origin.device))
    assert frame.rotation
    x = queries.double()
    if metric == "cosine":
        x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=COSINE_EPS)
    elif metric == "l2":
        x = x - origin.double()
    rotated = stages.rotate_queries(queries, frame)
    assert rotated is not None
    off = torch.linalg.vector_norm(rotated - frame.rotation(x), dim=1)
    norms = torch.linalg.vector_norm(x, dim=1)
    assert (off <= (channels + 64) * 2.0**-53 * norms).all()  # what int8.code_queries allows


def test_a_frame_that_does_not_rotate_launches_nothing() -> None:
    frame = Frame("dot", torch.zeros(3), None)
    assert stages.rotate_queries(torch.ones(2, 3), frame) is None
