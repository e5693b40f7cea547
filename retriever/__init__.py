"""Images, encoders, galleries and the retriever; knows nothing of Triton."""

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
