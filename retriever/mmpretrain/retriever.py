"""mmpretrain's ``ImageToImageRetriever``, with the searches of flashmatch."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT  # pyright: ignore[reportMissingImports]
from mmengine.registry import Registry  # pyright: ignore[reportMissingImports]
from mmpretrain.models import BaseRetriever  # pyright: ignore[reportMissingImports]
from mmpretrain.structures import DataSample  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from ..files.prototype_file import write_prototypes
from ..kept_bank import KeptBank
from ..model.encoders import EncoderSpec
from ..model.evaluating import evaluating
from ..model.features import last_features, require_features
from ..prototypes import PrototypeSource
from ..settings import RetrieverSettings
from ..similarity import Similarity, match, require_similarity
from .parts import build_encoder, build_head, initialisation_config, preprocessor_config
from .prototypes import obtain_prototypes, require_prototype

MODELS = Registry("model", parent=ROOT, scope="flashmatch")


@MODELS.register_module()
class ImageToImageRetriever(RetrieverSettings, BaseRetriever):
    """mmpretrain's ``ImageToImageRetriever``, with the searches of flashmatch.

    Configs, attributes, results and state dicts are the original's. ``docs/integrations`` lists
    the differences: errors where the original gave a wrong answer.

    Args:
        image_encoder: as the original: a module, a config dict or a list of them, built by
            mmpretrain's MODELS; also whatever else ``flashmatch.retriever.build_encoder`` takes.
        prototype: as the original: a tensor (M, C), the path of a file of one, a DataLoader or the
            config dict of one, built by mmengine's Runner; also an array or a Path.
        head: for losses: a module or a config dict, built by mmpretrain's MODELS.
        pretrained: a checkpoint, as in ``ImageClassifier``: short for ``init_cfg=dict(
            type="Pretrained", checkpoint=...)``, which mmengine loads in ``init_weights()``.
        similarity_fn: "cosine_similarity"; also "dot_product", "euclidean_distance" (negated), or a
            callable (N, C), (M, C) -> (N, M), larger is better.
        train_cfg: ``dict(augments=..., probs=...)`` for the data preprocessor.
        data_preprocessor: a config dict, by default of ``mmpretrain.ClsDataPreprocessor``, or a
            module. Dicts are left untouched.
        topk: how many labels a sample gets. -1: all of them.
        init_cfg: for mmengine's ``init_weights()``.
        dense_scores: True: as the original, a sample's ``pred_score`` (M,) holds the score of every
            prototype in the prototypes' order, whatever ``topk``; mmpretrain's evaluators, its
            inferencer and its visualizer read that. The scores come from matrix products: (N, M)
            is held, (N, M, C) never. False: ``pred_score`` (k,) belongs to ``pred_label`` (k,),
            best first, and is exact as ``flashmatch.topk`` is; (N, M) is never held. Only what
            reads both may follow, such as the evaluators ``flashmatch.RetrievalRecall`` and
            ``flashmatch.RetrievalAveragePrecision``; not mmpretrain's, nor its inferencer.

    Attributes:
        prototype_vecs: (M, C), once prepared: a buffer, on the encoder's device, not in the state
            dict. In the dtype of the tensor or file; encoded ones at least in torch's default.
        prototype_ids: (M,) int64, on the CPU: the ``sample_idx`` of each row, or its number.
        prototype_inited: whether they are up to date with ``prototype``. Assigning that makes them
            stale; training does not: ``PrepareProtoBeforeValLoopHook`` or ``prepare_prototype()``
            encodes them again.

    Raises:
        PrototypeTypeError: a TypeError that is an AssertionError too, as the original's.
        TypeError, ValueError: other arguments that cannot work.
    """

    prototype_vecs: Tensor
    prototype_ids: Tensor
    _require_prototype = staticmethod(require_prototype)

    def __init__(
        self,
        image_encoder: EncoderSpec,
        prototype: PrototypeSource,
        head: nn.Module | Mapping[str, Any] | None = None,
        pretrained: str | None = None,
        similarity_fn: Similarity = "cosine_similarity",
        train_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: nn.Module | Mapping[str, Any] | None = None,
        topk: int = -1,
        init_cfg: Any = None,
        dense_scores: bool = True,
    ) -> None:
        require_similarity(similarity_fn)
        super().__init__(
            prototype=prototype,
            data_preprocessor=preprocessor_config(data_preprocessor, train_cfg),
            init_cfg=initialisation_config(pretrained, init_cfg),
        )
        self.topk = topk
        self.dense_scores = dense_scores
        self.image_encoder = build_encoder(image_encoder)
        self.head = build_head(head)
        self.similarity = similarity_fn
        self._bank = KeptBank()
        self.register_buffer("_anchor", torch.empty(0), persistent=False)
        self.register_buffer("prototype_vecs", None, persistent=False)

    def _refused_mode(self, mode: str) -> Exception:
        return RuntimeError(f'Invalid mode "{mode}".')  # the original's

    def extract_feat(self, inputs: Any) -> Any:
        """The encoder's output, a tuple where it gives one. Differentiable."""
        return self.image_encoder(inputs)

    def matching(self, inputs: Tensor) -> dict[str, Tensor]:
        """Features (N, C) -> scores against the prototypes, prepared first if need be.

        - score (N, M): of every prototype, in the prototypes' order
        - pred_label (N, M) int64: rows of the prototypes, score descending, then row ascending
        - pred_score (N, M): the scores in that order

        ``dense_scores=False``: all three are (N, k), k cut to M, and belong together, best first.

        Raises:
            ValueError: features of another shape or width, or not finite.
        """
        if not self.prototype_inited:
            self.prepare_prototype()
        prototypes = self.prototype_vecs
        require_features(inputs, prototypes.shape[1])
        k = len(prototypes) if self.topk == -1 else self.topk
        k = None if self.dense_scores else k
        return match(inputs, prototypes, k, self.similarity, search=self._bank.topk)

    @torch.no_grad()
    def predict(
        self, inputs: Any, data_samples: Sequence[Any] | None = None, **kwargs: Any
    ) -> Sequence[Any]:
        """The matches of each image, as samples with ``pred_label`` and ``pred_score``.

        Runs without gradients and in eval mode, since batch statistics and dropout would make an
        image's matches depend on its neighbours or on chance; the train flags come back after it.

        Args:
            inputs: preprocessed, as for ``extract_feat``.
            data_samples: one per image; they are filled in and returned. None: new ones are.

        Raises:
            ValueError: not one sample per image.
        """
        with evaluating(self):
            result = self.matching(last_features(self.extract_feat(inputs)))
        return self._get_predictions(result, data_samples)

    def _get_predictions(
        self, result: dict[str, Tensor], data_samples: Sequence[Any] | None
    ) -> Sequence[Any]:
        scores, labels = result["score"], result["pred_label"]
        if self.topk != -1:
            labels = labels[:, : self.topk]
        if data_samples is None:
            data_samples = [DataSample() for _ in range(len(scores))]
        if len(data_samples) != len(scores):
            raise ValueError(
                f"data_samples must have one sample per image, {len(scores)}; "
                f"got {len(data_samples)}"
            )
        for sample, score, label in zip(data_samples, scores, labels, strict=True):
            # Not set_pred_score, which refuses other lengths than a num_classes that is there.
            sample.set_field(score, "pred_score", dtype=Tensor)
            sample.set_field(label, "pred_label", dtype=Tensor)
            if "num_classes" not in sample:
                sample.set_field(len(self.prototype_vecs), "num_classes", field_type="metainfo")
        return data_samples

    def prepare_prototype(self) -> None:
        """Load or encode the prototypes, again if they were before.

        Runs without gradients and in eval mode; every submodule's train flag comes back after it.
        With several processes all of them must call this: they share a loader's batches, and the
        first one reads the file. Each ends with all rows, each of them once.

        Raises:
            FileNotFoundError, ValueError: no such file, or whatever the kind of prototype can do
                wrong: NaN or infinity, samples that are missing or share a ``sample_idx``, ...
        """
        # The buffer must be an ordinary tensor even when called in inference mode.
        with torch.inference_mode(False), torch.no_grad(), evaluating(self):
            vectors, ids = obtain_prototypes(self.prototype, self._encode, self._anchor.device)
        self._keep(vectors, ids)

    def dump_prototype(self, path: str | PathLike[str]) -> None:
        """Write the prototypes, prepared first if need be, for ``prototype=path`` to read.

        As the original, a bare tensor by ``torch.save``, but on the CPU, so that any machine can
        read it; ``.safetensors``: with their ids.
        """
        if not self.prototype_inited:
            self.prepare_prototype()
        write_prototypes(Path(path), self.prototype_vecs, self.prototype_ids)

    def _encode(self, batch: dict[str, Any]) -> Tensor:
        features = last_features(self(**self.data_preprocessor(batch, False)))
        require_features(features)
        return features.to(torch.promote_types(features.dtype, torch.get_default_dtype()))
