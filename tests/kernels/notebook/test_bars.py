"""Progress bars warn nobody, and cost nothing before they are shown."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from programs import output_of

from flashmatch.kernels.notebook import bars

PROGRAM = """
import sys, types, warnings
warnings.simplefilter("error")
if {kernel}:  # as ipykernel leaves it, without ipywidgets
    sys.modules["IPython"] = types.ModuleType("IPython")
    shell = types.SimpleNamespace(config={{"IPKernelApp": 1}})
    sys.modules["IPython"].get_ipython = lambda: shell
    sys.modules["ipywidgets"] = None
from flashmatch.kernels.notebook import bars
print(list(bars.bar(range(3), "counting", file=sys.stdout)), bars.is_watched())
"""


@pytest.mark.parametrize("kernel", [False, True])
def test_no_warning_without_widgets(kernel: bool) -> None:
    shown = output_of("-c", PROGRAM.format(kernel=kernel))
    assert "counting: 100%" in shown
    assert shown.endswith(f"[0, 1, 2] {kernel}\n")


def test_importing_flashmatch_imports_no_bars() -> None:
    assert output_of("-c", "import sys, flashmatch; print('tqdm.auto' in sys.modules)") == "False\n"


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        (None, False),
        (SimpleNamespace(), False),
        (SimpleNamespace(config={"TerminalIPythonApp": {}}), False),
        (SimpleNamespace(config={"IPKernelApp": {}}), True),
    ],
)
def test_a_notebook_is_watched(
    shell: object, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("IPython")
    module.get_ipython = lambda: shell  # pyright: ignore
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    assert bars.is_watched() == expected
