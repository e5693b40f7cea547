"""The other exact searches on CPU: FAISS, USearch, scikit-learn. All take float32 from numpy."""

from dataclasses import replace

import torch
from torch import Tensor

from measuring.shapes import Shape

from .provider import Provider, Search, Unsupported, unit_if_cosine


def _faiss(prototypes: Tensor, shape: Shape) -> Search:
    index = _faiss_index(prototypes, shape)
    return lambda queries: _faiss_search(index, queries, shape)


def _faiss_with_add(prototypes: Tensor, shape: Shape) -> Search:
    return lambda queries: _faiss_search(_faiss_index(prototypes, shape), queries, shape)


def _faiss_index(prototypes: Tensor, shape: Shape):
    import faiss

    index = faiss.IndexFlatL2(shape.C) if shape.metric == "l2" else faiss.IndexFlatIP(shape.C)
    index.add(unit_if_cosine(prototypes.float(), shape).numpy())
    return index


def _faiss_search(index, queries: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    values, indices = index.search(unit_if_cosine(queries.float(), shape).numpy(), shape.k)
    scores = torch.from_numpy(values)
    return -scores if shape.metric == "l2" else scores, torch.from_numpy(indices)


def _usearch(prototypes: Tensor, shape: Shape) -> Search:
    from usearch.compiled import MetricKind
    from usearch.index import search

    metric = {"cosine": MetricKind.Cos, "dot": MetricKind.IP, "l2": MetricKind.L2sq}[shape.metric]
    dataset = prototypes.float().numpy()

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        found = search(dataset, queries.float().numpy(), shape.k, metric, exact=True)
        distances = torch.from_numpy(found.distances).reshape(len(queries), -1)
        keys = torch.from_numpy(found.keys.astype("int64")).reshape(len(queries), -1)
        return (-distances if shape.metric == "l2" else 1 - distances), keys

    return run


def _sklearn(prototypes: Tensor, shape: Shape) -> Search:
    from sklearn.neighbors import NearestNeighbors

    if shape.metric == "dot":
        raise Unsupported("NearestNeighbors takes distances only")
    metric = "cosine" if shape.metric == "cosine" else "sqeuclidean"
    brute = NearestNeighbors(n_neighbors=shape.k, algorithm="brute", metric=metric)
    brute.fit(prototypes.float().numpy())

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        distances, indices = brute.kneighbors(queries.float().numpy())
        scores = torch.from_numpy(distances)
        return (1 - scores if shape.metric == "cosine" else -scores), torch.from_numpy(indices)

    return run


def _sklearn_prepared(prototypes: Tensor, shape: Shape) -> Search:
    """Cosines by way of the distances of unit vectors, at which scikit-learn is quicker."""
    if shape.metric != "cosine":
        raise Unsupported("only cosine has norms to divide by ahead of time")
    search = _sklearn(unit_if_cosine(prototypes.float(), shape), replace(shape, metric="l2"))

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        scores, indices = search(unit_if_cosine(queries.float(), shape))
        return 1 + scores / 2, indices

    return run


_FAISS = ("faiss-cpu", "faiss")
_SKLEARN = ("scikit-learn",)
CPU_PEERS = (
    Provider("faiss IndexFlat", _faiss, "faiss", _FAISS, ("cpu",)),
    Provider("faiss IndexFlat, add included", _faiss_with_add, "faiss", _FAISS, ("cpu",)),
    Provider("usearch exact", _usearch, "usearch", ("usearch",), ("cpu",)),
    Provider("scikit-learn brute", _sklearn, "sklearn", _SKLEARN, ("cpu",)),
    Provider(
        "scikit-learn brute, normalised before", _sklearn_prepared, "sklearn", _SKLEARN, ("cpu",)
    ),
)
