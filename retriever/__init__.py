"""Images, encoders, galleries and the retriever; knows nothing of Triton."""

from .encoders import EFFICIENTNET_LITE0_PREPROCESS, build_encoder
from .heads import LossHead
from .image_to_image import ImageToImageRetriever
from .images import UnreadableImage, read_image
from .metrics import KnnAccuracy, RetrievalMetrics
from .preprocess import ImagePreprocessor
from .prototypes import load_prototypes
from .samples import DataSample, collate

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
