"""Settings every leg shares: which leg this is, how many examples, and poisoned memory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# Triton decides at import whether its kernels are interpreted or compiled, once per process.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
EXAMPLES = os.environ.get("FLASHMATCH_EXAMPLES")
collect_ignore = ["compile"] if INTERPRETED else ["interpreter"]

try:
    import hypothesis
except ImportError:  # a GPU machine may have torch, triton and pytest only
    pass
else:
    hypothesis.settings.register_profile(
        "flashmatch",
        max_examples=int(EXAMPLES or (15 if INTERPRETED else 100)),
        derandomize=EXAMPLES is None,  # ordinary runs repeat themselves; `make fuzz` explores
        deadline=None,
        print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("flashmatch")


def pytest_report_header() -> str:
    leg = "interpreter" if INTERPRETED else "torch and compile (TRITON_INTERPRET=1: interpreter)"
    return f"flashmatch leg: {leg}; examples per property: {EXAMPLES or 'default'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Naming a folder on the command line overrides collect_ignore."""
    for folder, wanted in (("interpreter", True), ("compile", False)):
        if wanted != INTERPRETED and any(folder in item.path.parts for item in items):
            raise pytest.UsageError(f"tests/{folder} needs TRITON_INTERPRET={int(wanted)}")


@pytest.fixture(scope="module")  # a function-scoped fixture cannot serve hypothesis
def poisoned_empty() -> Iterator[None]:
    """Fill what torch.empty and its kin return with NaN, or the least integer.

    Memory a kernel forgot to write then shows up in its result instead of being zero by luck.
    """
    patch = pytest.MonkeyPatch()
    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
    ):
        patch.setattr(owner, name, _poisoning(getattr(owner, name)))
    yield
    patch.undo()


def _poisoning(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poisoned(*args, **kwargs) -> torch.Tensor:
        out = make(*args, **kwargs)
        if out.dtype.is_floating_point or out.dtype.is_complex:
            return out.fill_(torch.nan)
        return out.fill_(True if out.dtype == torch.bool else torch.iinfo(out.dtype).min)

    return poisoned


@pytest.fixture
def unknown_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is known of any device's kernels; what will be is kept in a folder of the test's."""
    from flashmatch.kernels.triton_backend.selfcheck import verdicts

    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(verdicts.OFF, raising=False)
    monkeypatch.setattr(verdicts, "_verdicts", {})


@pytest.fixture
def screened_small(monkeypatch: pytest.MonkeyPatch) -> None:
    from screens import screen_small

    screen_small(monkeypatch)


@pytest.fixture
def screened_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from screens import screen_in_pieces

    screen_in_pieces(monkeypatch)


@pytest.fixture
def coded_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of Codes.write was given."""
    from flashmatch.kernels.codes.pages import Codes

    counts: list[int] = []
    write = Codes.write

    def spy(self: Codes, first_page: int, rows: torch.Tensor, norms: torch.Tensor) -> None:
        counts.append(len(rows))
        write(self, first_page, rows, norms)

    monkeypatch.setattr(Codes, "write", spy)
    return counts
