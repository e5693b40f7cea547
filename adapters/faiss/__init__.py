"""FAISS's flat indexes, searched exactly: ``import flashmatch.adapters.faiss as faiss``.

``IndexFlatIP``, ``IndexFlatL2``, ``IndexFlat``, ``IndexIDMap``, ``IndexIDMap2`` and
``IndexPreTransform`` (normalised vectors) with FAISS's methods, selectors, readers, writers and
functions, on numpy arrays or torch tensors. Distances have FAISS's sign: the scalar product, or the
squared distance. What is not exact search (IVF, PQ, HNSW, ...) is not here.
docs/integrations/faiss.md says what differs.
"""

from typing import NoReturn

from . import contrib
from .factory import (
    clone_index,
    downcast_index,
    get_compile_options,
    index_factory,
    omp_get_max_threads,
    omp_set_num_threads,
)
from .files import (
    IO_FLAG_MMAP,
    IO_FLAG_MMAP_IFC,
    IO_FLAG_ONDISK_SAME_DIR,
    IO_FLAG_PQ_SKIP_SDC_TABLE,
    IO_FLAG_READ_ONLY,
    IO_FLAG_SKIP_IVF_DATA,
    IO_FLAG_SKIP_PRECOMPUTE_TABLE,
    IO_FLAG_SKIP_STORAGE,
    deserialize_index,
    from_faiss,
    read_index,
    serialize_index,
    to_faiss,
    write_index,
)
from .flat import IndexFlat, IndexFlatIP, IndexFlatL2
from .gpu import (
    GpuClonerOptions,
    GpuIndexFlatConfig,
    GpuIndexFlatIP,
    GpuIndexFlatL2,
    GpuMultipleClonerOptions,
    StandardGpuResources,
    get_num_gpus,
    index_cpu_to_all_gpus,
    index_cpu_to_gpu,
    index_cpu_to_gpu_multiple,
    index_cpu_to_gpus_list,
    index_gpu_to_cpu,
    knn_gpu,
)
from .id_map import IndexIDMap, IndexIDMap2
from .index import Index
from .merging import ResultHeap, kmax, kmin, merge_knn_results
from .metrics import (
    METRIC_GOWER,
    METRIC_INNER_PRODUCT,
    METRIC_L1,
    METRIC_L2,
    METRIC_BrayCurtis,
    METRIC_Canberra,
    METRIC_Jaccard,
    METRIC_JensenShannon,
    METRIC_Linf,
    METRIC_Lp,
    METRIC_NaNEuclidean,
    is_similarity_metric,
)
from .normalization import normalize_L2
from .pretransform import IndexPreTransform, NormalizationTransform
from .random_numbers import rand, randint, randn
from .readers import BufferedIOReader, FileIOReader, IOReader, PyCallbackIOReader, VectorIOReader
from .search import knn, pairwise_distances
from .selectors import (
    IDSelector,
    IDSelectorAll,
    IDSelectorAnd,
    IDSelectorArray,
    IDSelectorBatch,
    IDSelectorBitmap,
    IDSelectorNot,
    IDSelectorOr,
    IDSelectorRange,
    IDSelectorTranslated,
    IDSelectorXOr,
    SearchParameters,
)
from .vectors import (
    UInt8Vector,
    copy_array_to_vector,
    rev_swig_ptr,
    swig_ptr,
    vector_float_to_array,
    vector_to_array,
)
from .writers import BufferedIOWriter, FileIOWriter, IOWriter, PyCallbackIOWriter, VectorIOWriter

__version__ = "1.15.1"
"""The version of FAISS whose names these are."""

__all__ = [
    "IO_FLAG_MMAP", "IO_FLAG_MMAP_IFC", "IO_FLAG_ONDISK_SAME_DIR", "IO_FLAG_PQ_SKIP_SDC_TABLE",
    "IO_FLAG_READ_ONLY", "IO_FLAG_SKIP_IVF_DATA", "IO_FLAG_SKIP_PRECOMPUTE_TABLE",
    "IO_FLAG_SKIP_STORAGE", "METRIC_GOWER", "METRIC_INNER_PRODUCT", "METRIC_L1", "METRIC_L2",
    "BufferedIOReader", "BufferedIOWriter", "FileIOReader", "FileIOWriter", "GpuClonerOptions",
    "GpuIndexFlatConfig", "GpuIndexFlatIP", "GpuIndexFlatL2", "GpuMultipleClonerOptions",
    "IDSelector", "IDSelectorAll", "IDSelectorAnd", "IDSelectorArray", "IDSelectorBatch",
    "IDSelectorBitmap", "IDSelectorNot", "IDSelectorOr", "IDSelectorRange", "IDSelectorTranslated",
    "IDSelectorXOr", "IOReader", "IOWriter", "Index", "IndexFlat", "IndexFlatIP", "IndexFlatL2",
    "IndexIDMap", "IndexIDMap2", "IndexPreTransform", "METRIC_BrayCurtis", "METRIC_Canberra",
    "METRIC_Jaccard", "METRIC_JensenShannon", "METRIC_Linf", "METRIC_Lp", "METRIC_NaNEuclidean",
    "NormalizationTransform", "PyCallbackIOReader", "PyCallbackIOWriter", "ResultHeap",
    "SearchParameters", "StandardGpuResources", "UInt8Vector", "VectorIOReader", "VectorIOWriter",
    "clone_index", "contrib", "copy_array_to_vector", "deserialize_index", "downcast_index",
    "from_faiss", "get_compile_options", "get_num_gpus", "index_cpu_to_all_gpus",
    "index_cpu_to_gpu", "index_cpu_to_gpu_multiple", "index_cpu_to_gpus_list", "index_factory",
    "index_gpu_to_cpu", "is_similarity_metric", "kmax", "kmin", "knn", "knn_gpu",
    "merge_knn_results", "normalize_L2", "omp_get_max_threads", "omp_set_num_threads",
    "pairwise_distances", "rand", "randint", "randn", "read_index", "rev_swig_ptr",
    "serialize_index", "swig_ptr", "to_faiss", "vector_float_to_array", "vector_to_array",
    "write_index",
]  # fmt: skip


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"{__name__} has no {name!r}: it stands in for FAISS's flat indexes, which search exactly"
    )
