"""Run as a program: a bank of a memory-mapped file, and the private memory of what it does, in MiB.

Arguments: the file, queries, k. Prints JSON: the bytes of its codes and the peak of each step.
"""

import json
import sys

import torch

from flashmatch import kernels
from flashmatch.kernels import PrototypeBank
from measuring.memory import MIB, PrivatePeak


def main(path: str, count: int, k: int) -> None:
    PrototypeBank(torch.randn(3000, 128)).topk(torch.randn(3, 128), 2)  # libraries set up shop
    with PrivatePeak() as build:
        bank = PrototypeBank(path)
    peaks = {"codes": bank.nbytes / MIB, "build": build.private_mib}
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(count, bank.dim, generator=generator)
    allowed = torch.rand(len(bank), generator=generator) < 0.9
    each = allowed.expand(count, -1)  # (Q, M), without the memory
    for name, workspace, mask in (
        ("search, masks", 256, each),
        ("search, masks, small workspace", 32, each),
        ("search, masks, a row removed, small workspace", 32, each),
    ):
        kernels.WORKSPACE_BYTES = workspace * MIB
        if "removed" in name:
            bank.remove(0)
            count, mask = count // 16, each[: count // 16, 1:]  # slow, for lack of room
        with PrivatePeak() as search:
            bank.topk(queries[:count], k, mask=mask)
        peaks[name] = search.private_mib
    peaks["int8"] = bank.screen == "int8" and bank.stats.repaired == 0
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
