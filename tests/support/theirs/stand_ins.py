"""Ours under the names of the libraries, before any of their tests is imported."""

import importlib
import pkgutil
import sys
from types import ModuleType

TOOLS = (
    "rand",
    "eval_intersection",
    "cvar",
    "SIMDLevel",
    "ResultHeap",
    "merge_knn_results",
    "swig_version",
    "DirectMap",
)
"""How the names begin that FAISS's tests take from faiss to test with, and not to be tested."""


def faiss() -> None:
    """``import faiss`` is ours, but for TOOLS; of faiss.contrib, what we have of it is ours."""
    import faiss as original

    import flashmatch.adapters.faiss as ours
    import flashmatch.adapters.faiss.contrib as our_contrib

    contrib = ModuleType("faiss.contrib")
    contrib.__path__ = [f"{folder}/contrib" for folder in original.__path__]
    both = {
        module.name: (
            importlib.import_module(f"{our_contrib.__name__}.{module.name}"),
            importlib.import_module(f"faiss.contrib.{module.name}"),
        )
        for module in pkgutil.iter_modules(our_contrib.__path__)
        if module.name != "torch_utils"
    }
    for name in [name for name in sys.modules if name.startswith("faiss.contrib")]:
        del sys.modules[name]
    sys.modules["faiss"] = _first_of("faiss", ours, original, TOOLS)
    sys.modules["faiss"].SIMDConfig = OneLevel
    sys.modules["faiss"].contrib = sys.modules["faiss.contrib"] = contrib
    for name, (mine, theirs) in both.items():
        module = _first_of(f"faiss.contrib.{name}", mine, theirs, ("",))
        sys.modules[module.__name__] = module
        setattr(contrib, name, module)
    evaluation = importlib.import_module("faiss.contrib.evaluation")
    evaluation.test_ref_range_results = evaluation.check_ref_range_results  # its name in 1.7
    torch_utils = importlib.import_module(f"{our_contrib.__name__}.torch_utils")
    sys.modules["faiss.contrib.torch_utils"] = contrib.torch_utils = torch_utils


class OneLevel:
    """FAISS's SIMDConfig: what instructions its own products use is nothing to ours."""

    set_level = staticmethod(lambda level: None)
    get_level = get_dispatched_level = staticmethod(lambda: 0)
    is_simd_level_available = staticmethod(lambda level: level == 0)  # SIMDLevel_NONE


def _first_of(name: str, ours: ModuleType, theirs: ModuleType, tools: tuple) -> ModuleType:
    """A module with the names of ours, and those of theirs that begin as ``tools`` do."""

    def find(attribute: str) -> object:
        is_tool = attribute.startswith(tools) and not hasattr(ours, attribute)
        return getattr(theirs if is_tool else ours, attribute)

    module = ModuleType(name)
    module.__getattr__ = find
    return module


def sklearn() -> None:
    """The estimators of sklearn.neighbors, wherever they are imported from there."""
    from sklearn import neighbors

    import flashmatch.adapters.sklearn as ours

    for name in ours.__all__:
        setattr(neighbors, name, getattr(ours, name))


def pytorch_metric_learning() -> None:
    """FaissKNN and CustomKNN, by name and by default; encoders have random weights."""
    import torchvision
    from pytorch_metric_learning.utils import inference

    from flashmatch.adapters.pytorch_metric_learning import KNN

    def faiss_knn(
        reset_before: bool = True,
        reset_after: bool = True,
        index_init_fn: object = None,
        gpus: object = None,
    ) -> KNN:
        names = {None: "l2", "IndexFlatL2": "l2", "IndexFlatIP": "dot"}
        return KNN(names[getattr(index_init_fn, "__name__", index_init_fn)])

    def custom_knn(distance: object, batch_size: int | None = None) -> KNN:
        kind = type(distance).__name__
        if kind == "LpDistance" and (distance.p, distance.power) == (2, 2):
            kind = f"LpDistance, normalised: {distance.normalize_embeddings}"
        metrics = {"CosineSimilarity": "cosine", "LpDistance, normalised: False": "l2"}
        return KNN(metrics[kind])

    inference.FaissKNN, inference.CustomKNN = faiss_knn, custom_knn
    resnet18 = torchvision.models.resnet18
    torchvision.models.resnet18 = lambda pretrained: resnet18()  # its weights are not to be had


def sentence_transformers() -> None:
    """The three functions, in every module that has them."""
    import sentence_transformers.util  # noqa: F401

    import flashmatch.adapters.sentence_transformers as ours

    names = ("semantic_search", "paraphrase_mining", "paraphrase_mining_embeddings")
    _replace_everywhere("sentence_transformers", {name: getattr(ours, name) for name in names})


def lightly() -> None:
    """``knn_predict``, in every module that has it."""
    import lightly.utils.benchmarking  # noqa: F401

    from flashmatch.adapters.lightly import knn_predict

    _replace_everywhere("lightly", {"knn_predict": knn_predict})


def mmpretrain() -> None:
    """The retriever and its metrics, as registered and as imported."""
    import mmpretrain.evaluation
    import mmpretrain.models  # noqa: F401
    from mmpretrain.registry import METRICS, MODELS

    import flashmatch.retriever.mmpretrain as ours

    for registry, names in (
        (MODELS, ("ImageToImageRetriever",)),
        (METRICS, ("RetrievalRecall", "RetrievalAveragePrecision")),
    ):
        for name in names:
            mine = getattr(ours, name)
            registry.register_module(name=name, module=mine, force=True)
            _replace_everywhere("mmpretrain", {name: mine})


def _replace_everywhere(package: str, names: dict[str, object]) -> None:
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").partition(".")[0] == package:
            for name in names.keys() & vars(module).keys():
                setattr(module, name, names[name])


LIBRARIES = (faiss, sklearn, pytorch_metric_learning, sentence_transformers, lightly, mmpretrain)
STAND_INS = {function.__name__: function for function in LIBRARIES}
