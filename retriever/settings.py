"""What both retrievers have: prototypes, topk and similarity, set at any time; modes and losses."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor, nn

from ..kernels.contract.arguments import require_int
from ..kernels.notebook.tables import facts
from .kept_bank import KeptBank
from .prototypes import PrototypeSource, require_prototype
from .similarity import Similarity, all_scores, require_similarity


class RetrieverSettings(nn.Module):
    """The part that both retrievers share."""

    similarity: Similarity
    prototype_inited: bool
    prototype_vecs: Tensor
    prototype_ids: Tensor
    head: nn.Module | None
    image_encoder: Any
    extract_feat: Callable[[Any], Any]
    predict: Callable[..., Any]
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

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Features ("tensor"), losses ("loss") or samples with predictions ("predict").

        ``inputs`` are as for ``extract_feat``.

        Raises:
            ValueError: another mode; RuntimeError for mmengine, as the original's.
        """
        if mode == "tensor":
            return self.extract_feat(inputs)
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        raise self._refused_mode(mode)

    def _refused_mode(self, mode: str) -> Exception:
        return ValueError(f"mode must be 'tensor', 'loss' or 'predict'; got {mode!r}")

    def loss(self, inputs: Any, data_samples: Any) -> dict[str, Tensor]:
        """``head.loss`` on the encoder's output, with gradients, in the current train mode.

        Raises:
            ValueError: the retriever has no head.
        """
        if self.head is None:
            raise ValueError("head must be given for losses; got None")
        return self.head.loss(self.extract_feat(inputs), data_samples)  # pyright: ignore

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

    def _repr_html_(self) -> str:
        vectors = self.prototype_vecs if self.prototype_inited else None
        name = getattr(self.similarity, "__name__", self.similarity)
        device = next((x.device for x in chain(self.parameters(), self.buffers())), "cpu")
        about = {
            "prototypes": "not prepared yet" if vectors is None else len(vectors),
            "width": "not known yet" if vectors is None else vectors.shape[1],
            "similarity": name if isinstance(name, str) else type(name).__name__,
            "topk": "all" if self.topk == -1 else self.topk,
            "encoder": type(self.image_encoder).__name__,
            "device": device,
        }
        return facts(type(self).__name__, about)
