"""ImageToImageRetriever: encode images, and rank a gallery of prototypes by similarity."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.contract.arguments import require_int
from .batches.forms import as_batch, as_images
from .batches.samples import as_samples
from .files.prototype_file import dump_prototypes
from .images.pixels import as_stack, read_each
from .images.preprocess import build_preprocessor
from .kept_bank import KeptBank
from .model.encoders import EncoderSpec, build_encoder
from .model.evaluating import evaluating
from .model.features import last_features, require_features, require_row_each
from .model.heads import build_head
from .model.weights import load_weights, require_checkpoint
from .prototypes import PrototypeSource, obtain_prototypes
from .settings import RetrieverSettings
from .similarity import Similarity, match, require_similarity


class ImageToImageRetriever(RetrieverSettings):
    """Finds, for each image, the most similar of a gallery of prototypes.

    Args:
        image_encoder: images (N, C, H, W) -> features (N, channels), or a tuple or list whose last
            element is that. A module, a callable, a config dict, a list of them run in sequence, or
            a name such as "torchvision:resnet50" (see ``build_encoder``).
        prototype: the gallery. A tensor or array (M, C); a .safetensors, .pt or .pth file of one;
            a DataLoader, or a config dict of one, whose images are encoded on first use.
        head: for ``mode="loss"``: a module with ``loss(feats, data_samples)``, or a config dict.
        pretrained: checkpoint of this retriever or of its encoder. It is loaded here and now.
        similarity_fn: "cosine_similarity", "dot_product", "euclidean_distance" (negated, so that
            larger is better), or a callable (N, C), (M, C) -> (N, M), used as it is.
        train_cfg: ``dict(augments=[dict(type="Mixup", alpha=0.8), ...], probs=[...])``, applied by
            ``data_preprocessor(batch, training=True)``, which then needs ``num_classes``.
        data_preprocessor: arguments of ``ImagePreprocessor``, or a module
            ``(batch, training) -> dict(inputs=, data_samples=)``. None: images are only made float.
        topk: how many matches. -1: all of them, see ``matching``.
        init_cfg: ``dict(type="Pretrained", checkpoint=path, prefix="...")``: like ``pretrained``,
            with a prefix that is taken off the keys.
        channels_last: run the encoder in that memory format.
        autocast: torch.float16 or torch.bfloat16, to run the encoder under autocast.
        similarity_chunk_rows: call a callable ``similarity_fn`` on that many prototypes at a time.
            None: once on everything, which is right for any function. A number says that a score
            depends on its own pair alone; a function seen to break this is refused.
        progress: draw a bar while a gallery is encoded.

    Attributes:
        prototype_vecs: (M, C), once prepared; on the encoder's device and in its dtype, now and
            after ``.to()`` and ``.half()``. Not in the state dict. With ``topk=k`` and a named
            similarity, large ones are searched through a bank that is made when it is needed and
            whenever they change: a byte more per coordinate. Torch does not count writes through
            ``.data`` or to the memory of an array: call ``prepare_prototype()`` after them. See
            ``KeptBank``.
        prototype_ids: (M,) int64; the ``sample_idx`` of each row (or its number, without any).
        prototype_inited: whether they are up to date with ``prototype``. Assigning ``prototype``
            makes them stale, and they are prepared again on next use. Training the encoder does
            not: call ``prepare_prototype()`` after it.

    Raises:
        TypeError, ValueError, FileNotFoundError, ImportError: an argument that cannot work.
    """

    prototype_vecs: Tensor
    prototype_ids: Tensor

    def __init__(
        self,
        image_encoder: EncoderSpec,
        prototype: PrototypeSource,
        head: nn.Module | Mapping[str, Any] | None = None,
        pretrained: str | Path | None = None,
        similarity_fn: Similarity = "cosine_similarity",
        train_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: nn.Module | Mapping[str, Any] | None = None,
        topk: int = -1,
        init_cfg: Mapping[str, Any] | None = None,
        *,
        channels_last: bool = False,
        autocast: torch.dtype | None = None,
        similarity_chunk_rows: int | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__()
        require_similarity(similarity_fn)
        checkpoint = require_checkpoint(pretrained, init_cfg)
        if autocast not in (None, torch.float16, torch.bfloat16):
            raise ValueError(
                f"autocast must be torch.float16, torch.bfloat16 or None; got {autocast!r}"
            )
        if similarity_chunk_rows is not None:
            require_int("similarity_chunk_rows", similarity_chunk_rows, least=1)
        self.topk = topk
        self.prototype = prototype
        self.data_preprocessor = build_preprocessor(data_preprocessor, train_cfg)
        self.head = build_head(head)
        self.image_encoder = build_encoder(image_encoder)
        self.similarity = similarity_fn
        self.channels_last = channels_last
        self.autocast = autocast
        self.similarity_chunk_rows = similarity_chunk_rows
        self.progress = progress
        self._bank = KeptBank()
        self.register_buffer("_anchor", torch.empty(0), persistent=False)
        self.register_buffer("prototype_vecs", None, persistent=False)
        self.register_buffer("prototype_ids", None, persistent=False)
        if checkpoint is not None:
            load_weights(self, "image_encoder", *checkpoint)
        if channels_last:
            self.image_encoder.to(memory_format=torch.channels_last)  # pyright: ignore

    def extract_feat(self, inputs: Any) -> Any:
        """The encoder's output, a tuple where it gives one. Differentiable.

        Args:
            inputs: float tensor, taken as preprocessed already; (C, H, W) is one image. Raw images
                go through ``data_preprocessor`` first: a uint8 tensor (N, C, H, W) or (C, H, W), an
                array (N, H, W, C), (H, W, C) or (H, W), a PIL image, a path, or a list of these.
                Paths and PIL images are read as ``images.read_image`` says: upright RGB on white.

        Raises:
            TypeError: no image; the message names ``inputs``, or which of them.
            ValueError: a shape that no image has, or an image that cannot be read.
            FileNotFoundError: a path without a file.
        """
        return self._encoded(self._images(inputs))

    def _images(self, inputs: Any) -> Any:
        """What the encoder takes."""
        if isinstance(inputs, Tensor):
            inputs = as_stack(inputs)
        if isinstance(inputs, Tensor) and inputs.dtype != torch.uint8:
            return inputs
        images = as_images(inputs)
        if not isinstance(images, Tensor):  # a preprocessor of the caller's opens no paths
            images = read_each(images, inputs)
        return self._preprocess({"inputs": images})["inputs"]

    def _encoded(self, inputs: Any) -> Any:
        if self.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        fast = torch.autocast(inputs.device.type, self.autocast) if self.autocast else nullcontext()
        with fast:
            return self.image_encoder(inputs)

    def matching(self, inputs: Tensor) -> dict[str, Tensor]:
        """Features (N, C) -> scores against the prototypes, prepared first if need be.

        ``topk=-1`` gives what mmpretrain gives, except that ties are in ascending order:

        - score (N, M): of every prototype, in the prototypes' order
        - pred_label (N, M) int64: rows of the prototypes, best first
        - pred_score (N, M): the scores in that order

        ``topk=k``, k cut to M: all three are (N, k), aligned and best first; score and pred_score
        (the same values) belong to pred_label. A named similarity is then exact (as
        ``flashmatch.topk``; distances are the root of its result) and never holds (N, M).

        Raises:
            ValueError: features of another shape or width, or not finite.
        """
        if not self.prototype_inited:
            self.prepare_prototype()
        prototypes, chunk_rows = self.prototype_vecs, self.similarity_chunk_rows
        require_features(inputs, prototypes.shape[1])
        k = None if self.topk == -1 else self.topk
        return match(inputs, prototypes, k, self.similarity, chunk_rows, self._bank.topk)

    @torch.no_grad()
    def predict(
        self, inputs: Any, data_samples: Sequence[Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """The matches of each image, as samples with ``pred_label`` and ``pred_score``.

        ``topk=k``: pred_label (k,) and pred_score (k,) belong together, best first. ``topk=-1``:
        as in mmpretrain, pred_label (M,) is sorted and pred_score (M,) is not: pred_score[i] is the
        score of prototype i. Labels are rows of the prototypes; ``prototype_ids[label]`` is the
        sample's ``sample_idx``.

        Runs without gradients and in eval mode, since batch statistics and dropout would make an
        image's matches depend on its neighbours or on chance; the train flags come back after it.

        Args:
            inputs: images, paths among them, or a float tensor, as for ``extract_feat``.
            data_samples: one per image; they are filled in and returned. New ones where labels or
                None are given.

        Raises:
            TypeError, FileNotFoundError: as for ``extract_feat``.
            ValueError: likewise, or not one sample per image.
        """
        if not self.prototype_inited:
            self.prepare_prototype()
        with evaluating(self):
            with torch.inference_mode():
                images = self._images(inputs)
                features = last_features(self._encoded(images))
            require_features(features)
            require_row_each(features, len(images))
            # Outside inference mode, whose tensors (as labels, say) no later graph could use.
            result = self.matching(features)
        labels, scores = result["pred_label"], result["score"]
        samples = as_samples(data_samples, len(labels))
        for sample, label, score in zip(samples, labels, scores, strict=True):
            sample.pred_label, sample.pred_score = label, score
        return samples

    def test_step(self, data: Any) -> list[Any]:
        """``predict`` on a batch as a DataLoader gives it, preprocessed first."""
        return self.predict(**self._preprocess(data))

    val_step = test_step

    def prepare_prototype(self) -> None:
        """Load or encode the prototypes, again if they were before.

        Runs without gradients and in eval mode; every submodule's train flag comes back after it.
        With several processes and a loader, all of them must call this; each ends with all rows.
        """
        # The buffers must be ordinary tensors even when called from predict: one made in inference
        # mode could never be part of a graph again.
        with torch.inference_mode(False), torch.no_grad(), evaluating(self):
            vectors, ids = obtain_prototypes(
                self.prototype, self._encode, self._reference(), self.progress
            )
        self._keep(vectors, ids)

    def dump_prototype(self, path: str | Path) -> None:
        """Write the prototypes, prepared first if need be, to a .safetensors, .pt or .pth file."""
        if not self.prototype_inited:
            self.prepare_prototype()
        dump_prototypes(path, self.prototype_vecs, self.prototype_ids)

    @torch.inference_mode()
    def _encode(self, batch: dict[str, Any]) -> Tensor:
        features = last_features(self.extract_feat(self._preprocess(batch)["inputs"]))
        require_features(features)
        return features

    def _preprocess(self, data: Any) -> dict[str, Any]:
        """A batch, preprocessed, where the encoder is and in its dtype."""
        like = self._reference()
        batch = self.data_preprocessor(as_batch(data), False)
        inputs = batch["inputs"]
        if isinstance(inputs, Tensor):
            dtype = like.dtype if inputs.is_floating_point() else inputs.dtype
            inputs = inputs.to(like.device, dtype)
        return {"inputs": inputs, "data_samples": batch.get("data_samples")}

    def _reference(self) -> Tensor:
        """A tensor with the encoder's device and dtype, or the retriever's if it has no weights."""
        own = chain(self.image_encoder.parameters(), self.image_encoder.buffers(), self.buffers())
        return next(tensor for tensor in own if tensor.is_floating_point())
