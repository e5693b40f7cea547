"""The examples: what each says with the base install alone, and that it runs with its extra."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SMALL = {  # arguments of a short run; None: needs an environment of its own, and has a test there
    "dedup_folder.py": ["--images", "bench"],
    "faiss_search.py": [],
    "knn_evaluation.py": ["--k", "5"],
    "mmpretrain_inshop.py": None,
    "sklearn_neighbors.py": [],
    "train_digits.py": ["--epochs", "1"],
}
ENCODER = ["--encoder", "efficientnet-lite0"]
OPTIONS = [  # of an example, the module without which it cannot work, and the package to name
    ("faiss_search.py", ["--with", "faiss"], "faiss", "faiss-cpu"),
    ("knn_evaluation.py", ENCODER, "efficientnet_lite_pytorch", "efficientnet-lite-pytorch"),
    ("dedup_folder.py", ["--images", "bench"], "scipy", "scipy"),
    ("dedup_folder.py", [], "skimage", "scikit-image"),
]
WITHOUT = """
import runpy, sys
path, hidden, arguments = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
sys.modules.update(dict.fromkeys(hidden))
sys.argv = [path, *arguments]
runpy.run_path(path, run_name="__main__")
"""


def beyond_the_base_install() -> set[str]:
    """Modules here that do not come with flashmatch, or with what it requires, and so on."""
    base: set[str] = set()
    todo = ["flashmatch"]
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in base:
            base.add(name)
            required = [Requirement(line) for line in requires(name) or ()]
            todo += [r.name for r in required if not r.marker or r.marker.evaluate({"extra": ""})]
    return {
        module
        for module, names in packages_distributions().items()
        if module.isidentifier() and base.isdisjoint(map(canonicalize_name, names))
    }


def run(example: str, *arguments: str, hidden: set[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, f"examples/{example}", ",".join(sorted(hidden))]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)


def installed_by(extra: str) -> set[str]:
    names: set[str] = set()
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "flashmatch":
            names.update(*map(installed_by, requirement.extras))
        names.add(requirement.name)
    return names


def assert_names_its_extra(done: subprocess.CompletedProcess[str], example: str) -> set[str]:
    """One line and no traceback; return the packages that are said to be missing."""
    assert done.returncode in (1, 2)
    line = r'examples/(\S+) needs (.+): pip install "flashmatch\[(.+)\]"\n'
    found = re.fullmatch(line, done.stderr)
    assert found, done.stderr
    needed = set(found[2].split(" and "))
    assert found[1] == example
    assert needed <= installed_by(found[3])
    return needed


@pytest.mark.parametrize("example", EXAMPLES)
def test_help_needs_the_base_install_alone(example: str) -> None:
    done = run(example, "--help", hidden=beyond_the_base_install())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_missing_package_is_one_line_that_names_the_extra(example: str) -> None:
    done = run(example, hidden=beyond_the_base_install())
    assert_names_its_extra(done, example)
    assert done.stdout == ""


@pytest.mark.parametrize(("example", "options", "module", "package"), OPTIONS)
def test_what_an_option_needs(example: str, options: list[str], module: str, package: str) -> None:
    done = run(example, *options, hidden={module})
    assert assert_names_its_extra(done, example) == {package}


@pytest.mark.parametrize("example", EXAMPLES)
def test_runs_with_its_extra(example: str) -> None:
    arguments = SMALL[example]
    if arguments is None:
        pytest.skip("runs in tests/dropin/mmpretrain")
    done = run(example, *arguments, hidden={"mmpretrain"})
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_base_install_is_what_it_says() -> None:
    """Else the tests above would hide nothing, or too much."""
    hidden = beyond_the_base_install()
    assert {"sklearn", "scipy", "skimage", "torchvision", "pytest"} <= hidden
    assert hidden.isdisjoint({"torch", "numpy", "safetensors", "PIL", "tqdm", "flashmatch"})
