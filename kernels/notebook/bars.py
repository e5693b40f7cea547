"""Progress bars: in a terminal as text, in a notebook as its widgets where it has them."""

import sys
import warnings
from typing import Any


def bar(*arguments: Any, **options: Any) -> Any:
    """``tqdm.auto.tqdm(...)``, without its warning in notebooks that have no widgets.

    It is imported here, not with this library: few calls show a bar.
    """
    with warnings.catch_warnings():
        from tqdm import TqdmWarning

        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    return tqdm(*arguments, **options)


def is_watched() -> bool:
    """Whether somebody sees what is written to stderr: in a terminal, or in a notebook."""
    return sys.stderr.isatty() or _is_notebook()


def _is_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})
