"""One of two processes (gloo): every kind of prototype, with the original and with ours.

    python one_of_two.py <rank> <folder that holds config.json, gallery/ and rendezvous>

Writes what it found to <rank>.pt: results of ours and of the original, or the error, by name.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_reduce_params
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import MODELS
from torch.utils.data import DataLoader

import flashmatch.retriever.mmpretrain  # noqa: F401 - registers


def predictions(model: torch.nn.Module, queries: torch.Tensor) -> dict[str, Any]:
    try:
        with torch.no_grad():
            samples = model.predict(queries)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    scores, labels = ([getattr(s, name) for s in samples] for name in ("pred_score", "pred_label"))
    return {
        "score": torch.stack(scores),
        "label": torch.stack(labels),
        "vectors": model.prototype_vecs,
    }


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b.T


def main(rank: int, root: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(root / "rendezvous"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    config, loader = json.loads((root / "config.json").read_text())
    queries = torch.load(root / "queries.pt")
    dataset = CustomDataset(**{k: v for k, v in loader["dataset"].items() if k != "type"})
    mine_only = root / f"gallery_of_{rank}.pth"  # only the first process's is there
    kinds = {
        "tensor": torch.load(root / "gallery_of_0.pth"),
        "path": str(mine_only),
        "dict": loader,  # 5 images for two processes: DefaultSampler gives one of them twice
        "loader": DataLoader(dataset, 2, collate_fn=pseudo_collate),  # all of them in both
        "missing": str(root / "nowhere.pth"),
    }
    results = {}
    DefaultScope.get_instance("test", scope_name="mmpretrain")
    for name, prototype in kinds.items():
        for similarity in ("cosine_similarity", dot):
            for scope in ("mmpretrain", "flashmatch"):
                if (name, scope) == ("missing", "mmpretrain"):
                    continue  # the other process waits for ever
                torch.manual_seed(0)
                kind = {"type": f"{scope}.ImageToImageRetriever", "prototype": prototype}
                model = MODELS.build({**config, **kind, "similarity_fn": similarity}).eval()
                key = (name, "dot" if similarity is dot else "cosine", scope)
                results[key] = predictions(model, queries)
    results["wrapped"] = wrapped(config, loader, queries)
    torch.save(results, root / f"{rank}.pt")
    dist.destroy_process_group()


def wrapped(config: dict, loader: dict, queries: torch.Tensor) -> dict[str, Any]:
    """Ours in DistributedDataParallel, its buffers averaged as SyncBuffersHook does."""
    torch.manual_seed(0)
    model = MODELS.build(
        {**config, "type": "flashmatch.ImageToImageRetriever", "prototype": loader}
    )
    model.prepare_prototype()
    parallel = MMDistributedDataParallel(model, find_unused_parameters=True)
    parallel.module.prepare_prototype()
    all_reduce_params(parallel.buffers(), op="mean")
    return predictions(parallel.module, queries)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
