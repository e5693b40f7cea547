"""Files of banks with something changed: refused, harmless, or found by ``check``, never believed.

bytes      one bit, some bits, a block of zeros, two blocks exchanged, a cut, bytes in between
values     a tensor, or what the header says, changed by somebody who then computed the checksums
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashmatch import PrototypeBank
from flashmatch.kernels.files import tensor_file

from .banks import KINDS, is_consistent, seen


class Saved:
    """A file of each kind, and what its bank shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[bytes, list[list[int]]]] = {}

    def of(self, kind: str) -> tuple[bytes, list[list[int]]]:
        if kind not in self._known:
            path, bank = self.folder / f"{len(self._known)}.safetensors", KINDS[kind]()
            bank.save(path)
            self._known[kind] = path.read_bytes(), seen(bank)
        return self._known[kind]


def run(count: int, seed: int, folder: Path) -> Counter[str]:
    chosen, saved, outcomes = random.Random(seed), Saved(folder), Counter[str]()
    for _ in range(count):
        kind = chosen.choice(list(KINDS))
        trial = of_bytes if chosen.random() < 0.6 else of_values
        outcomes[trial(kind, chosen, saved)] += 1
    return outcomes


def of_bytes(kind: str, chosen: random.Random, saved: Saved) -> str:
    content, before = saved.of(kind)
    path = saved.folder / "damaged.safetensors"
    path.write_bytes(chosen.choice(DAMAGES)(bytearray(content), chosen))
    bank = _load(path)
    if isinstance(bank, str):
        return bank
    return "harmless" if seen(bank) == before else "WRONG without a word"


def of_values(kind: str, chosen: random.Random, saved: Saved) -> str:
    content, _ = saved.of(kind)
    whole, path = saved.folder / "whole.safetensors", saved.folder / "changed.safetensors"
    whole.write_bytes(content)
    file = tensor_file.open_mapped(whole)
    tensors = {name: tensor.clone() for name, tensor in file.tensors.items()}
    metadata = dict(file.metadata)
    if chosen.random() < 0.35:
        change_header(metadata, chosen)
    else:
        change_tensor(tensors, chosen)
    parts = {name: (x.dtype, tuple(x.shape), [x]) for name, x in tensors.items()}
    metadata.pop(tensor_file._CHECKSUMS)
    tensor_file.write(path, parts, metadata)
    bank = _load(path)
    if isinstance(bank, str):
        return bank
    try:
        if is_consistent(bank):
            return "harmless"
    except ValueError:
        return "refused"
    except Exception as error:
        return f"ESCAPED: {type(error).__name__} in a search"
    try:
        bank.check()
    except ValueError as error:
        return "found by check" if str(path) in str(error) else "ESCAPED: no path in an error"
    return "WRONG, and check says nothing"


def _load(path: Path) -> PrototypeBank | str:
    try:
        return PrototypeBank.load(path)
    except ValueError as error:
        return "refused" if str(path) in str(error) else "ESCAPED: no path in an error"
    except Exception as error:
        return f"ESCAPED: {type(error).__name__}"


def _flip(content: bytearray, chosen: random.Random) -> bytearray:
    content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
    return content


def _flip_header(content: bytearray, chosen: random.Random) -> bytearray:
    header = 8 + int.from_bytes(content[:8], "little")
    content[chosen.randrange(header)] ^= 1 << chosen.randrange(8)
    return content


def _flip_some(content: bytearray, chosen: random.Random) -> bytearray:
    for _ in range(chosen.randint(2, 40)):
        _flip(content, chosen)
    return content


def _zero(content: bytearray, chosen: random.Random) -> bytearray:
    start, length = chosen.randrange(len(content)), chosen.choice((1, 64, 512, 4096))
    stop = min(start + length, len(content))
    content[start:stop] = bytes(stop - start)
    return content


def _exchange(content: bytearray, chosen: random.Random) -> bytearray:
    length = chosen.choice((8, 64, 512))
    a, b = (chosen.randrange(max(1, len(content) - length)) for _ in range(2))
    content[a : a + length], content[b : b + length] = (
        content[b : b + length],
        content[a : a + length],
    )
    return content


def _cut(content: bytearray, chosen: random.Random) -> bytearray:
    return content[: chosen.randrange(len(content))]


def _grow(content: bytearray, chosen: random.Random) -> bytearray:
    at = chosen.choice((len(content), chosen.randrange(len(content))))
    return content[:at] + chosen.randbytes(chosen.choice((1, 8, 1000))) + content[at:]


DAMAGES = (_flip, _flip, _flip_header, _flip_some, _zero, _exchange, _cut, _grow)


def change_tensor(tensors: dict[str, Tensor], chosen: random.Random) -> None:
    """Another value, shape or dtype of one, or one less."""
    name = chosen.choice(list(tensors))
    tensor = tensors[name]
    how = chosen.randrange(8)
    if how == 0:
        del tensors[name]
    elif how == 1 and len(tensor):
        tensors[name] = tensor[:-1].clone()
    elif how == 2:
        tensors[name] = tensor.flatten()
    elif how == 3:
        tensors[name] = tensor.to(chosen.choice((torch.float32, torch.int64, torch.int8)))
    elif tensor.numel():
        flat = tensor.view(-1)
        at = torch.tensor([chosen.randrange(len(flat)) for _ in range(chosen.choice((1, 50)))])
        flat[at if chosen.random() < 0.7 else slice(None)] = _value(tensor.dtype, chosen)


def _value(dtype: torch.dtype, chosen: random.Random) -> Any:
    if dtype == torch.bool:
        return chosen.random() < 0.5
    if not dtype.is_floating_point:
        about = torch.iinfo(dtype)
        return chosen.choice((about.min, about.max, 0, -1, 1, 7, 1000 if about.max > 1000 else 3))
    extremes = (0.0, -1.0, 1e-30, 1e30, torch.inf, torch.nan, 3.5)
    about = torch.finfo(dtype)
    return max(about.min, min(about.max, x)) if (x := chosen.choice(extremes)) == x else x


def change_header(metadata: dict[str, str], chosen: random.Random) -> None:
    """Another value of something, or nothing."""
    about = json.loads(metadata["bank"])
    strange = (None, "", "x", -1, 0, 1, 10**30, 2**63, 1.5, [], {}, True, "cosine", "int8", "float")
    name = chosen.choice([*about, "seed", "layout", "new"])
    how = chosen.randrange(6)
    if how == 0:
        about.pop(name, None)
    elif how == 1 and isinstance(about.get(name), list):
        about[name][chosen.randrange(len(about[name]))] = chosen.choice(strange)
    else:
        about[name] = chosen.choice(strange)
    metadata["bank"] = json.dumps(about)
    if how == 5:
        metadata["bank"] = chosen.choice(("", "[]", "null", "{", "[" * 100_000, '"x"'))
    if chosen.random() < 0.1:
        metadata.pop(chosen.choice(("bank", "format")))
