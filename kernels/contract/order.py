"""The order of matches, written once: score descending, then index ascending.

A match is one int64 key, so that comparing keys compares matches and no two keys are equal:

    ssssssss ssssssss ssssssss ssssssss | iiiiiiii iiiiiiii iiiiiiii iiiiiiii
    fp32 score, as an ordered int32     | 0xFFFFFFFF - index

EMPTY is below the key of every score, -inf included. Its twin on GPUs is
triton_backend/device/keys.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

EMPTY = -(2**63)
MAX_ROWS = 2**32 - 1
_LOW = 0xFFFFFFFF


def pack(scores: Tensor, indices: Tensor) -> Tensor:
    """fp32 scores (no NaN, no -0) and int64 indices in [0, MAX_ROWS) -> int64 keys."""
    return (_flip(scores.view(torch.int32)).long() << 32) | (_LOW - indices)


def best_of(found: Sequence[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The k best of what searches of several parts gave: scores and indices (Q, k_i), -1 for none.

    At least k in all.
    """
    keys = [pack(scores, indices).masked_fill_(indices < 0, EMPTY) for scores, indices in found]
    return unpack(torch.cat(keys, 1).topk(k).values)


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """int64 keys -> fp32 scores and int64 indices; -inf and -1 for EMPTY."""
    empty = keys == EMPTY
    scores = _flip((keys >> 32).int()).view(torch.float32).masked_fill(empty, -torch.inf)
    return scores, (_LOW - (keys & _LOW)).masked_fill(empty, -1)


def scores_of(keys: Tensor) -> Tensor:
    """The fp32 scores of int64 keys; -inf for EMPTY."""
    return _flip((keys >> 32).int()).view(torch.float32).masked_fill(keys == EMPTY, -torch.inf)


def _flip(bits: Tensor) -> Tensor:
    """fp32 bits <-> int32 in the order of the floats: negative floats count backwards."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
