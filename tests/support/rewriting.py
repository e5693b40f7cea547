"""Files of banks, read and written again by somebody who knows their checksums."""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from flashmatch.kernels.files import tensor_file

CHECKSUMS = tensor_file._CHECKSUMS


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata())


def rewritten(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """With checksums that are right again."""
    parts = {n: (x.dtype, tuple(x.shape), [x]) for n, x in tensors.items() if n != CHECKSUMS}
    tensor_file.write(path, parts, {n: text for n, text in metadata.items() if n != CHECKSUMS})
