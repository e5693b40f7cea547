"""Stateless matching numerics on tensors; knows nothing of images.

Set ``flashmatch.kernels.WORKSPACE_BYTES`` to change how much memory a search may hold beyond its
inputs and outputs.
"""

WORKSPACE_BYTES: int = 256 * 2**20

# The bodies read WORKSPACE_BYTES at call time.
from .bank import PrototypeBank  # noqa: E402
from .contract.matches import Matches  # noqa: E402
from .storage.counts import BankStats  # noqa: E402
from .topk import topk  # noqa: E402
from .tune import tune  # noqa: E402

__all__ = ["WORKSPACE_BYTES", "BankStats", "Matches", "PrototypeBank", "topk", "tune"]
