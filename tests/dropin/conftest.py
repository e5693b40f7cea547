"""FAISS as it is, wherever a test module has it as ``faiss``."""

import inspect
from collections.abc import Iterator

import pytest

SUFFIX = "_numpy"


@pytest.fixture(scope="module", autouse=True)
def _faiss_unpatched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without ``faiss.contrib.torch_utils``, which pytorch-metric-learning imports.

    It replaces methods of FAISS's classes for the whole process; ``search`` then takes no
    ``params``. The originals remain as ``search_numpy`` and so on.
    """
    faiss = getattr(request.module, "faiss", None)
    with pytest.MonkeyPatch.context() as patch:
        for owner in (faiss, *filter(inspect.isclass, vars(faiss).values())) if faiss else ():
            for name, original in list(vars(owner).items()):
                if name.endswith(SUFFIX) and hasattr(owner, name.removesuffix(SUFFIX)):
                    patch.setattr(owner, name.removesuffix(SUFFIX), original)
        yield
