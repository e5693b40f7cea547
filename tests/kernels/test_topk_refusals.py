"""Bad input is refused by name, with what was expected and what came."""

import re

import pytest
import torch

from flashmatch import topk

Q, P = torch.randn(3, 8), torch.randn(20, 8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("rows", P, 1), TypeError, "queries must be a tensor, an array, a column or a sequence"),
        (
            (Q.int(), P, 1),
            TypeError,
            "queries must be float32, float16, bfloat16 or float64; got torch.int32",
        ),
        (
            (Q[0], P, 1),
            ValueError,
            "queries must have shape (rows, channels) with channels >= 1; got (8,)",
        ),
        ((Q[:, :0], P[:, :0], 1), ValueError, "channels >= 1; got (3, 0)"),
        ((Q, P[:, :7], 1), ValueError, "equally many channels; got 8 and 7"),
        ((Q, [], 1), TypeError, "non-empty sequence of them; got list of length 0"),
        (
            (Q, 5, 1),
            TypeError,
            "prototypes must be a tensor, an array, a column, a sequence of rows or chunks, or a "
            "path; got int",
        ),
        ((Q, [P, P.int()], 1), TypeError, "prototypes[1] must be float32"),
        (
            (Q, [P, P[:, :4]], 1),
            ValueError,
            "prototypes[1] must have 8 channels like prototypes[0]; got 4",
        ),
        ((Q, P, 21), ValueError, "k must be between 0 and 20, the rows of prototypes; got 21"),
        ((Q, P, -1), ValueError, "got -1"),
        ((Q, P, 2.0), TypeError, "k must be an int; got float"),
        ((Q, P, True), TypeError, "k must be an int; got bool"),
    ],
)
def test_arguments(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        topk(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"metric": "euclid"},
            ValueError,
            "metric must be one of 'cosine', 'dot', 'l2'; got 'euclid'",
        ),
        (
            {"nonfinite": "drop"},
            ValueError,
            "nonfinite must be one of 'raise', 'exclude'; got 'drop'",
        ),
        (
            {"mask": torch.ones(20)},
            TypeError,
            "mask must be a torch.bool tensor; got torch.float32",
        ),
        ({"mask": [1] * 20}, TypeError, "mask must be a torch.bool tensor; got torch.int64"),
        (
            {"mask": torch.ones(19) > 0},
            ValueError,
            "mask must have shape (20,) or (3, 20); got (19,)",
        ),
        ({"mask": torch.ones(20, device="meta") > 0}, TypeError, "mask must be a dense tensor"),
        ({"chunk_rows": 0}, ValueError, "chunk_rows must be at least 1; got 0"),
        ({"chunk_rows": 1.5}, TypeError, "chunk_rows must be an int; got float"),
    ],
)
def test_options(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        topk(Q, P, 2, **options)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_nonfinite_vectors(bad: float, metric: str, chunk_rows: int | None) -> None:
    prototypes = P.clone()
    prototypes[[4, 17], 2] = bad
    expected = re.escape('prototypes must be finite (or pass nonfinite="exclude")') + ".* row.* 4"
    with pytest.raises(ValueError, match=expected):
        topk(Q, prototypes, 2, metric=metric, chunk_rows=chunk_rows)
    queries = Q.clone()
    queries[1, 0] = bad
    with pytest.raises(ValueError, match=r"queries must be finite.* in row 1"):
        topk(queries, P, 2, metric=metric, chunk_rows=chunk_rows)


def test_a_norm_beyond_fp64_is_not_finite() -> None:
    prototypes = P.double()
    prototypes[3] = 1e200
    with pytest.raises(ValueError, match=r"norm beyond fp64 in row 3"):
        topk(Q, prototypes, 1)
