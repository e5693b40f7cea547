"""KeptBank: the search of ``flashmatch.topk``, through a bank for as long as prototypes stay."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..kernels import Matches, PrototypeBank, topk
from ..kernels.concurrency.turn import Turn

# From here on (16 MiB in fp32) a bank searches 1.2 to 2.5 times as fast as raw vectors, and more
# with more of them; with a quarter of it no faster. Measured on one core with VNNI, 1 to 256
# queries, 128 to 2,048 channels.
BANK_COORDINATES = 1 << 22


class KeptBank:
    """Searches prototypes, and keeps a bank of them until they change.

    Results are those of ``flashmatch.topk``, bit for bit, and so are gradients: where one is
    wanted, or a compiler, a transform or a mode looks on, ``flashmatch.topk`` searches. So it does
    with fewer than ``BANK_COORDINATES``, and with inference tensors, whose changes torch does not
    count.

    A bank is made at the first search of its prototypes, unless those before them changed after a
    single search, as in training: then at the second. It costs about as much as a search of 100 to
    1,500 queries, and holds one byte per coordinate and some 30 per row besides the vectors, which
    it refers to.

    Prototypes have changed if they are another tensor, lie elsewhere, or have another device,
    dtype, shape, stride or version: after an assignment, ``.to()``, or whatever torch writes in
    place. Torch does not count writes through ``.data``, those to the memory of an array, nor those
    of collectives. After such a write ``forget`` has to be called, as ``prepare_prototype`` does;
    until then, matches may be missing.

    It is copied and pickled as an empty one. Threads may share it.
    """

    def __init__(self) -> None:
        self._turn = Turn()
        self._kept: _Kept | None = None
        self._searches = 0  # of the prototypes that were seen last
        self._waits = False

    def __reduce__(self) -> tuple[type["KeptBank"], tuple[()]]:
        return KeptBank, ()

    def topk(self, queries: Tensor, prototypes: Tensor, k: int, *, metric: str) -> Matches:
        """As ``flashmatch.topk``."""
        suits = _suits_a_bank(queries, prototypes)
        bank = self._bank_of(prototypes, metric) if suits else None
        if bank is None:
            return topk(queries, prototypes, k, metric=metric)
        return bank.topk(queries, k)

    def forget(self) -> None:
        """Let go of the bank, and look at the prototypes anew in the next search."""
        self._kept = None

    def _bank_of(self, prototypes: Tensor, metric: str) -> PrototypeBank | None:
        """The bank of these very prototypes; None where it is too early to make one."""
        # Outside inference mode, whose tensors no later graph could use.
        with self._turn, torch.inference_mode(False), torch.no_grad():
            kept, state = self._kept, _state(prototypes, metric)
            if kept is None or kept.prototypes() is not prototypes or kept.state != state:
                self.forget()  # before anything takes its place
                self._kept = kept = _Kept(weakref.ref(prototypes, self._forgetting()), state)
                self._waits, self._searches = self._searches == 1, 0
            self._searches += 1
            if kept.bank is None and not (self._waits and self._searches == 1):
                kept.bank = PrototypeBank(prototypes, metric=metric, progress=False)
            return kept.bank

    def _forgetting(self) -> Callable[[object], None]:
        """``forget``, for when the prototypes are gone."""
        forget = weakref.WeakMethod(self.forget)  # a cycle would outlive the retriever

        def let_go(_: object) -> None:
            if method := forget():
                method()

        return let_go


@dataclass
class _Kept:
    """What tells whether prototypes are what they were, and their bank once there is one."""

    prototypes: weakref.ref[Tensor]
    state: tuple[object, ...]
    bank: PrototypeBank | None = None


def _state(prototypes: Tensor, metric: str) -> tuple[object, ...]:
    """An address is not given to others: whoever made a bank of it keeps its storage."""
    kind = prototypes.device, prototypes.dtype, prototypes.shape, prototypes.stride()
    return metric, *kind, prototypes.data_ptr(), prototypes._version


def _suits_a_bank(queries: Tensor, prototypes: Tensor) -> bool:
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(type(tensor) not in (Tensor, nn.Parameter) for tensor in (queries, prototypes))
    ):
        return False
    # A bank has no gradient for prototypes, and does not notice writes before the backward pass.
    wants_gradient = queries.requires_grad or prototypes.requires_grad
    if prototypes.is_inference() or (torch.is_grad_enabled() and wants_gradient):
        return False
    return prototypes.numel() >= BANK_COORDINATES
