"""Exact top-k matching of vectors; knows nothing of images.

``topk`` searches raw tensors, a ``PrototypeBank`` those it was made of. Either way:

1. topk.py and bank.py check the arguments and make a ``Request``.
2. operators/ is seen by torch.func, autograd and compilers; nobody else pays.
3. dispatch.py chooses a backend: Triton on GPUs where it can, torch elsewhere, on CPUs in one pass
   (torch_backend/cpu/) where scores fit.
4. The backend screens in low precision, selects what a bound of proofs/ cannot exclude, and
   rescores that in fp64, rounded once to fp32. Where the bounds do not settle it, it looks further.
5. contract/order.py puts the matches in the one order: score descending, then index ascending.

docs/architecture.md draws the rooms and the arrows between them, and follows one query through.
Set ``flashmatch.kernels.WORKSPACE_BYTES`` to change how much memory a search may hold beyond its
inputs and outputs.
"""

WORKSPACE_BYTES: int = 256 * 2**20

# dispatch.py reads WORKSPACE_BYTES at call time.
from .bank import PrototypeBank  # noqa: E402
from .contract.matches import Hits, Matches, RangeMatches  # noqa: E402
from .explaining.explanation import Explanation  # noqa: E402
from .selfcheck import Selfcheck, selfcheck  # noqa: E402
from .storage.counts import BankStats  # noqa: E402
from .topk import topk  # noqa: E402
from .tune import tune  # noqa: E402
from .within import count_within, within  # noqa: E402

__all__ = [
    "WORKSPACE_BYTES",
    "BankStats",
    "Explanation",
    "Hits",
    "Matches",
    "PrototypeBank",
    "RangeMatches",
    "Selfcheck",
    "count_within",
    "selfcheck",
    "topk",
    "tune",
    "within",
]
