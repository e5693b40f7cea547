"""Names as a file of numbers holds them: their UTF-8, one behind the other, and where each ends.

Lone surrogates, as of file names that are no UTF-8, are encoded as any code point of their size
(Python's "surrogatepass"), so that what any str holds comes back.
"""

import numpy as np
import torch
from torch import Tensor


def encoded(names: np.ndarray) -> tuple[Tensor, Tensor]:
    """The bytes (n,) uint8 of ``names`` (M,), and where each of them ends, (M,) int64."""
    texts = [name.encode("utf-8", "surrogatepass") for name in names]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    text = np.frombuffer(bytearray(b"".join(texts)), dtype=np.uint8)
    return torch.from_numpy(text), torch.from_numpy(ends)


def decoded(text: Tensor, ends: Tensor) -> list[str]:
    """The names of which these are the bytes (n,) uint8 and the ends (M,) int64.

    Raises:
        ValueError: what of them cannot be.
    """
    if text.ndim != 1:
        raise ValueError(f"its names have shape {tuple(text.shape)}")
    last = int(ends[-1]) if len(ends) else 0
    if last != len(text):
        raise ValueError(f"its names end at {last} of {len(text)} bytes")
    if len(ends) and (int(ends[0]) < 0 or bool((ends[1:] < ends[:-1]).any())):
        raise ValueError("the ends of its names do not ascend")
    data, names, start = text.numpy().tobytes(), [], 0
    for row, end in enumerate(ends.tolist()):
        try:
            names.append(data[start:end].decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise ValueError(f"name {row} is no UTF-8: {error.reason}") from error
        start = end
    return names
