"""Problems drawn by hypothesis."""

import torch
from hypothesis import strategies as st
from problems import DTYPES, KINDS, METRICS, Problem, vectors
from torch import Tensor


@st.composite
def problems(
    draw: st.DrawFn, *, largest: int = 400, channels: int = 70, dtypes: tuple = DTYPES
) -> Problem:
    """Problems of up to ``largest`` prototypes of up to ``channels`` channels."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    width = draw(st.one_of(st.integers(1, 5), st.integers(1, channels)))
    count = draw(st.one_of(st.integers(1, 4), st.integers(1, 40)))
    sizes = draw(
        st.lists(st.one_of(st.integers(0, 9), st.integers(1, largest)), min_size=1, max_size=3)
    )
    rows = sum(sizes)
    k = draw(st.one_of(st.integers(0, min(12, rows)), st.integers(0, rows)))
    queries = _drawn(draw, count, width, dtypes, generator)
    prototypes = [_drawn(draw, size, width, dtypes, generator) for size in sizes]
    mask_shape = draw(st.sampled_from((None, None, (rows,), (count, rows))))
    mask = None
    if mask_shape is not None:
        mask = torch.rand(mask_shape, generator=generator) < draw(st.sampled_from((0.02, 0.6, 1)))
    nonfinite = draw(st.sampled_from(("raise", "exclude")))
    if nonfinite == "exclude":
        for tensor in (queries, *prototypes):
            _spoil(draw, tensor, generator)
    metric = draw(st.sampled_from(METRICS))
    chunk_rows = draw(st.one_of(st.none(), st.integers(1, max(1, rows))))
    return Problem(queries, prototypes, k, metric, mask, nonfinite, chunk_rows)


def _drawn(
    draw: st.DrawFn, rows: int, channels: int, dtypes: tuple, generator: torch.Generator
) -> Tensor:
    kind = draw(st.sampled_from(KINDS))
    dtype = draw(st.sampled_from(dtypes))
    if dtype == torch.float16 and kind in ("scales", "giant"):
        kind = "gaussian"  # beyond its range
    x = vectors(kind, rows, channels, generator).to(dtype)
    layout = draw(st.sampled_from(("plain", "plain", "transposed", "gaps", "expanded")))
    if layout == "transposed":
        x = x.T.contiguous().T
    elif layout == "gaps":
        x = torch.cat([x, x], 1)[:, ::2][:, :channels] if channels > 1 else x.repeat(1, 2)[:, :1]
    elif layout == "expanded" and rows:
        x = x[:1].expand(rows, channels)
    return x


def _spoil(draw: st.DrawFn, x: Tensor, generator: torch.Generator) -> None:
    """NaN or inf in some rows, in place."""
    if len(x) and x.stride(0) and draw(st.booleans()):
        row = torch.rand(len(x), generator=generator) < 0.3
        x[row, int(torch.randint(x.shape[1], (), generator=generator))] = draw(
            st.sampled_from((float("nan"), float("inf"), -float("inf")))
        )
