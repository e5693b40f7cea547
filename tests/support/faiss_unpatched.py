"""FAISS as it is without ``faiss.contrib.torch_utils``.

pytorch-metric-learning imports that module, which replaces methods of FAISS's classes for the whole
process; ``search`` then takes no ``params``. The originals remain as ``search_numpy`` and so on.
"""

import inspect
from collections.abc import Iterator

import pytest

SUFFIX = "_numpy"


@pytest.fixture(scope="module", autouse=True)
def faiss_unpatched() -> Iterator[None]:
    faiss = pytest.importorskip("faiss")
    with pytest.MonkeyPatch.context() as patch:
        for owner in (faiss, *filter(inspect.isclass, vars(faiss).values())):
            for name, original in list(vars(owner).items()):
                if name.endswith(SUFFIX) and hasattr(owner, name.removesuffix(SUFFIX)):
                    patch.setattr(owner, name.removesuffix(SUFFIX), original)
        yield
