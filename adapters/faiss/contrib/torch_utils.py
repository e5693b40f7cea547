"""For ``import faiss.contrib.torch_utils``: tensors are taken and returned without it, too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def using_stream(res: object, pytorch_stream: torch.cuda.Stream | None = None) -> Iterator[None]:
    """Search on this CUDA stream; None = torch's current one, as anyway."""
    with torch.cuda.stream(pytorch_stream):
        yield
