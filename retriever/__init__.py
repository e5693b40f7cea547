"""Images, encoders, galleries and the retriever; knows nothing of Triton.

A room imports only from rooms above it.

    names configs processes     printable names; objects from config dicts; torch.distributed
    similarity kept_bank        scores of features against prototypes; a bank kept while they stay
    batches                     samples, labels, and batches of any form
    files                       tensors and prototypes from files that nobody vouches for
    images                      an image from a file or from memory to pixels, and to the encoder
    model                       encoder, head, checkpoint; what features must be
    metrics                     relevance of matches, and metrics of it; public
    gallery                     photographs, and datasets of their parts; public
    loading                     prototypes from a DataLoader: every sample once, every row known
    prototypes settings         what may be given as a gallery; what may be set on a retriever
    image_to_image              the retriever
    mmpretrain                  the same for mmpretrain and mmengine, which it alone imports; public
    demo                        ``flashmatch demo``
"""

from .batches.collate import collate
from .batches.samples import DataSample
from .files.prototype_file import load_prototypes
from .image_to_image import ImageToImageRetriever
from .images.preprocess import ImagePreprocessor
from .images.read import UnreadableImage, read_image
from .metrics.accumulate import KnnAccuracy, RetrievalMetrics
from .model.encoders import EFFICIENTNET_LITE0_PREPROCESS, build_encoder
from .model.heads import LossHead

__all__ = [
    "EFFICIENTNET_LITE0_PREPROCESS",
    "DataSample",
    "ImagePreprocessor",
    "ImageToImageRetriever",
    "KnnAccuracy",
    "LossHead",
    "RetrievalMetrics",
    "UnreadableImage",
    "build_encoder",
    "collate",
    "load_prototypes",
    "read_image",
]
