"""FAISS's flat indexes, searched exactly: ``import flashmatch.adapters.faiss as faiss``.

``IndexFlatIP``, ``IndexFlatL2``, ``IndexFlat``, ``IndexIDMap`` and ``IndexIDMap2`` with FAISS's
methods, selectors and functions, on numpy arrays or torch tensors. Distances have FAISS's sign: the
scalar product, or the squared distance. What is not exact search (IVF, PQ, HNSW, ...) is not here.
docs/integrations/faiss.md says what differs.
"""

from typing import NoReturn

from .arrays import METRIC_INNER_PRODUCT, METRIC_L2, rev_swig_ptr, swig_ptr, vector_to_array
from .files import from_faiss, read_index, write_index
from .flat import IndexFlat, IndexFlatIP, IndexFlatL2
from .functions import (
    clone_index,
    downcast_index,
    get_num_gpus,
    index_factory,
    knn,
    normalize_L2,
    omp_get_max_threads,
    omp_set_num_threads,
)
from .id_map import IndexIDMap, IndexIDMap2
from .index import Index
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
    IDSelectorXOr,
    SearchParameters,
)

__all__ = [
    "METRIC_INNER_PRODUCT",
    "METRIC_L2",
    "IDSelector",
    "IDSelectorAll",
    "IDSelectorAnd",
    "IDSelectorArray",
    "IDSelectorBatch",
    "IDSelectorBitmap",
    "IDSelectorNot",
    "IDSelectorOr",
    "IDSelectorRange",
    "IDSelectorXOr",
    "Index",
    "IndexFlat",
    "IndexFlatIP",
    "IndexFlatL2",
    "IndexIDMap",
    "IndexIDMap2",
    "SearchParameters",
    "clone_index",
    "downcast_index",
    "from_faiss",
    "get_num_gpus",
    "index_factory",
    "knn",
    "normalize_L2",
    "omp_get_max_threads",
    "omp_set_num_threads",
    "read_index",
    "rev_swig_ptr",
    "swig_ptr",
    "vector_to_array",
    "write_index",
]


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"{__name__} has no {name!r}: it stands in for FAISS's flat indexes, which search exactly"
    )
