"""What one may set on a retriever after it is made: prototypes, topk, similarity."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..kernels.contract.arguments import require_int
from .kept_bank import KeptBank
from .prototypes import PrototypeSource, require_prototype
from .similarity import Similarity, all_scores, require_similarity


class RetrieverSettings(nn.Module):
    """The part that both retrievers share."""

    similarity: Similarity
    prototype_inited: bool
    prototype_vecs: Tensor
    prototype_ids: Tensor
    _bank: KeptBank
    _prototype: Any
    _require_prototype = staticmethod(require_prototype)

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would register a Parameter given as prototype, and train it.
        if name == "prototype":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def prototype(self) -> Any:
        """The gallery as it was given (an array as a tensor)."""
        return self._prototype

    @prototype.setter
    def prototype(self, prototype: PrototypeSource) -> None:
        object.__setattr__(self, "_prototype", self._require_prototype(prototype))
        self.prototype_inited = False

    def _keep(self, vectors: Tensor, ids: Tensor) -> None:
        """The prototypes from now on."""
        self._bank.forget()
        self.prototype_inited = False  # should this be stopped between the two
        self.prototype_vecs = vectors
        self.prototype_ids = ids
        self.prototype_inited = True

    @property
    def topk(self) -> int:
        return self._topk

    @topk.setter
    def topk(self, topk: int) -> None:
        k = require_int("topk", topk)
        if k != -1 and k < 1:
            raise ValueError(f"topk must be at least 1, or -1 for all; got {k}")
        self._topk = k

    @property
    def similarity_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The similarity as a callable (N, C), (M, C) -> (N, M), larger is better."""
        require_similarity(self.similarity)
        if callable(self.similarity):
            return self.similarity
        return partial(all_scores, similarity=self.similarity)
