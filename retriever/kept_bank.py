"""KeptBank: the search of ``flashmatch.topk``, through a bank for as long as prototypes stay."""

import weakref

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
    dtype, shape, stride or version. Torch does not count writes through ``.data`` or the memory of
    an array, nor those of collectives; one entry of every row is compared to notice them too. After
    such a write of single entries, ``forget`` has to be called, as ``prepare_prototype`` does.

    It is copied and pickled as an empty one. Threads may share it.
    """

    def __init__(self) -> None:
        self._turn = Turn()
        self._seen: _Sight | None = None
        self._searches = 0  # of what was seen last
        self._waits = False

    def __reduce__(self) -> tuple[type["KeptBank"], tuple[()]]:
        return KeptBank, ()

    def topk(self, queries: Tensor, prototypes: Tensor, k: int, *, metric: str) -> Matches:
        """As ``flashmatch.topk``."""
        if not _suits_a_bank(queries, prototypes):
            return topk(queries, prototypes, k, metric=metric)
        bank = self._bank_of(prototypes, metric)
        if bank is None:
            return topk(queries, prototypes, k, metric=metric)
        return bank.topk(queries, k)

    def forget(self) -> None:
        """Let go of the bank, and look at the prototypes anew in the next search."""
        self._seen = None

    def _bank_of(self, prototypes: Tensor, metric: str) -> PrototypeBank | None:
        """The bank of these very prototypes; None where it is too early to make one."""
        # Outside inference mode, whose tensors no later graph could use.
        with self._turn, torch.inference_mode(False), torch.no_grad():
            seen = self._seen
            if seen is None or not seen.is_still(prototypes, metric):
                self.forget()  # before anything takes its place
                self._seen = seen = _Sight(prototypes, metric, self)
                self._waits, self._searches = self._searches == 1, 0
            self._searches += 1
            if seen.bank is None and not (self._waits and self._searches == 1):
                seen.bank = PrototypeBank(prototypes, metric=metric, progress=False)
            return seen.bank


class _Sight:
    """What tells whether prototypes are what they were, and their bank once there is one.

    Does not keep the tensor alive.
    """

    def __init__(self, prototypes: Tensor, metric: str, keeper: KeptBank) -> None:
        forget = weakref.WeakMethod(keeper.forget)  # a cycle would outlive the retriever

        def let_go(_: object) -> None:
            if method := forget():
                method()

        self.bank: PrototypeBank | None = None
        self._tensor = weakref.ref(prototypes, let_go)
        self._state = _state(prototypes, metric)
        rows, channels = prototypes.shape
        self._columns = (torch.arange(rows, device=prototypes.device) % channels)[:, None]
        self._entries = prototypes.gather(1, self._columns)

    def is_still(self, prototypes: Tensor, metric: str) -> bool:
        return (
            self._tensor() is prototypes
            and self._state == _state(prototypes, metric)
            and torch.equal(self._entries, prototypes.gather(1, self._columns))
        )


def _state(prototypes: Tensor, metric: str) -> tuple[object, ...]:
    """An address is not given to others: whoever made a bank of it keeps its storage."""
    shape = prototypes.shape, prototypes.stride()
    counted = prototypes.data_ptr(), prototypes._version
    return metric, *shape, prototypes.dtype, prototypes.device, *counted


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
