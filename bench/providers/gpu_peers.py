"""The other exact searches on CUDA, each by its documented interface, each imported when used.

Vectors of unit norm make inner product cosine and squared L2 the same order, which is how a user
of a library with fewer metrics gets there; that normalisation of queries is inside the timed call.
"""
# None of these installs on every machine.
# pyright: reportMissingImports=false

import os
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor

from measuring.shapes import Shape

from .provider import Provider, Search, Unsupported, require_room, unit_if_cosine
from .torch_peers import float32_precision, matmul_topk, matmul_topk_chunked, normalised_before


def _torch(prototypes: Tensor, shape: Shape) -> Search:
    """Products and topk, whole where the scores fit, else as a careful user cuts them up."""
    try:
        return matmul_topk(prototypes, shape)
    except Unsupported:
        return matmul_topk_chunked(prototypes, shape)


def _tf32(prototypes: Tensor, shape: Shape) -> Search:
    if shape.dtype != "float32":
        raise Unsupported("only float32 products can be TF32")
    search = _best_of_torch(prototypes, shape)

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        with float32_precision("high"):
            return search(queries)

    return run


def _bf16(prototypes: Tensor, shape: Shape) -> Search:
    if shape.dtype == "bfloat16":
        raise Unsupported("the vectors are bfloat16 as they are")
    search = _best_of_torch(prototypes.bfloat16(), replace(shape, dtype="bfloat16"))
    return lambda queries: search(queries.bfloat16())


def _best_of_torch(prototypes: Tensor, shape: Shape) -> Search:
    """Prototypes normalised ahead of time, for cosine."""
    if shape.metric == "cosine":
        return normalised_before(_torch, prototypes, shape)
    return _torch(prototypes, shape)


def _flashlib(prototypes: Tensor, shape: Shape) -> Search:
    from flashlib import flash_knn

    if shape.metric == "dot":
        raise Unsupported("flash_knn knows squared L2 only")
    prototypes = unit_if_cosine(prototypes, shape)

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        distances, indices = flash_knn(unit_if_cosine(queries, shape), prototypes, shape.k)
        scores = 1 - distances / 2 if shape.metric == "cosine" else -distances
        return scores, indices.long()

    return run


def _faiss_gpu(prototypes: Tensor, shape: Shape) -> Search:
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise Unsupported("this faiss was built without CUDA")
    import faiss.contrib.torch_utils  # lets FAISS read torch tensors where they are

    resources = faiss.StandardGpuResources()
    metric = faiss.METRIC_L2 if shape.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    prototypes = unit_if_cosine(prototypes, shape)

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        queries = unit_if_cosine(queries, shape)
        values, indices = faiss.knn_gpu(resources, queries, prototypes, shape.k, metric=metric)
        return (-values if shape.metric == "l2" else values), indices

    return run


def _cuvs(prototypes: Tensor, shape: Shape) -> Search:
    from cuvs.common import Resources
    from cuvs.neighbors import brute_force

    if shape.dtype == "bfloat16":
        raise Unsupported("brute_force takes float32 and float16")
    metric = {"cosine": "cosine", "dot": "inner_product", "l2": "sqeuclidean"}[shape.metric]
    stream = torch.cuda.current_stream().cuda_stream
    resources = Resources(stream=stream)  # kept: making one costs as much as a small search
    index = brute_force.build(prototypes, metric=metric, resources=resources)
    resources.sync()

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        found = brute_force.search(index, queries, shape.k, resources=resources)
        resources.sync()
        values, indices = (torch.as_tensor(x, device=queries.device) for x in found)
        scores = {"cosine": 1 - values, "dot": values, "l2": -values}[shape.metric]
        return scores, indices.long()

    return run


def _certex(prototypes: Tensor, shape: Shape) -> Search:
    from certex import Index

    if shape.k > 2048:
        raise Unsupported("k is at most 2048")

    index = Index(dim=shape.C, metric={"dot": "ip"}.get(shape.metric, shape.metric))
    index.add(prototypes)

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = index.search(queries, k=shape.k)
        return (-values if shape.metric == "l2" else values), indices

    return run


def _jax(prototypes: Tensor, shape: Shape) -> Search:
    if not any(find_spec(name) for name in ("jax_cuda12_plugin", "jax_cuda13_plugin")):
        raise Unsupported("this jax has no CUDA plugin")
    # else jax takes three quarters of the memory from everyone measured beside it
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import jax.numpy as jnp

    if shape.metric == "l2":
        raise Unsupported("written for products; jax has no distance top-k of its own")
    require_room(4 * shape.Q * shape.M, "the score matrix", prototypes)
    table = jnp.from_dlpack(unit_if_cosine(prototypes, shape).contiguous())

    @jax.jit
    def best(queries, table):
        products = jnp.matmul(queries, table.T, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(products.astype(jnp.float32), shape.k)

    def run(queries: Tensor) -> tuple[Tensor, Tensor]:
        queries = unit_if_cosine(queries, shape).contiguous()
        values, indices = jax.block_until_ready(best(jnp.from_dlpack(queries), table))
        return torch.from_dlpack(values), torch.from_dlpack(indices).long()

    return run


_FAISS = (
    "faiss-gpu-cu13-cuvs", "faiss-gpu-cu12-cuvs", "faiss-gpu-cu12", "faiss-gpu-cuvs", "faiss-gpu",
    "faiss",
)  # fmt: skip
_CUVS = ("cuvs-cu13", "cuvs-cu12", "cuvs")
GPU_PEERS = (
    Provider("torch matmul+topk, TF32", _tf32, devices=("cuda",)),
    Provider("torch matmul+topk, bfloat16", _bf16, devices=("cuda",)),
    Provider("flashlib flash_knn", _flashlib, "flashlib", ("flashlib",), ("cuda",)),
    Provider("faiss knn_gpu", _faiss_gpu, "faiss", _FAISS, ("cuda",), False),
    Provider("cuVS brute_force", _cuvs, "cuvs", _CUVS, ("cuda",), False),
    Provider("certex Index", _certex, "certex", ("certex",), ("cuda",), False),
    Provider("jax matmul+top_k", _jax, "jax", ("jax",), ("cuda",), False),
)
