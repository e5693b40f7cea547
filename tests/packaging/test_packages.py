"""What is installed: every module, under flashmatch and under no other name, and lightly."""

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "src/flashmatch": "flashmatch",
    "kernels": "flashmatch/kernels",
    "retriever": "flashmatch/retriever",
    "adapters": "flashmatch/adapters",
}
BARE = ("kernels", "retriever", "adapters")
HEAVY = (
    "triton",
    "torchvision",
    "faiss",
    "lightly",
    "pytorch_metric_learning",
    "sentence_transformers",
    "torchmetrics",
    "mmengine",
    "mmpretrain",
    "sklearn",
    "skimage",
    "matplotlib",
)
IMPORT_ALL = """
    import flashmatch, flashmatch.adapters, flashmatch.kernels, flashmatch.retriever
    print(flashmatch.__file__)
"""


def expected_files() -> set[str]:
    """Every file of the package as it should lie in the wheel."""
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }


def copy_of_the_sources(target: Path) -> Path:
    """Builds leave traces (build/, *.egg-info) that would be found by the next build."""
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, target / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    return target


def environment(target: Path) -> Path:
    """A virtual environment that sees this one's packages (torch is 3 GB), but no flashmatch."""
    venv.create(target, with_pip=False, symlinks=True)
    python = target / "bin" / "python"
    site = Path(run(python, "import sysconfig; print(sysconfig.get_path('purelib'))", target))
    (site / "outside.pth").write_text(sysconfig.get_path("purelib"))
    return python


def install(python: Path, *what: str) -> None:
    """With uv where there is one, with pip where not; never from the network."""
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    pip = [uv, "pip", "install", "--python", str(python)] if uv else None
    pip = pip or [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--reinstall" if uv else "-U", *what]
    subprocess.run(command, check=True, capture_output=True, text=True, env=plain_environment())


def run(python: Path | str, code: str, cwd: Path) -> str:
    """What a fresh interpreter in ``cwd`` prints."""
    command = [str(python), "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=plain_environment())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def plain_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = copy_of_the_sources(tmp_path_factory.mktemp("sources"))
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out)]
    subprocess.run([*command, str(sources)], check=True, capture_output=True, text=True)
    return next(out.glob("*.whl"))


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    table = read_configuration(ROOT / "pyproject.toml", expand=False)["tool"]["setuptools"]
    folders = [path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")]
    roots = {str(ROOT / folder): target for folder, target in FOLDERS.items()}
    expected = set()
    for folder in folders:
        root = next(root for root in roots if str(folder).startswith(root))
        expected.add(f"{roots[root]}{str(folder).removeprefix(root)}".replace("/", "."))
    assert sorted(table["packages"]) == sorted(expected)


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == expected_files()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_wheel_imports_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "env")
    install(python, str(wheel))
    assert str(tmp_path / "env") in run(python, IMPORT_ALL, tmp_path)
    assert not top_level_names(python, tmp_path)


def test_editable_install_sees_edits_and_new_files(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    sources = copy_of_the_sources(tmp_path / "sources")
    python = environment(tmp_path / "env")
    install(python, "--editable", str(sources))
    assert str(sources) in run(python, IMPORT_ALL, tmp_path)
    (sources / "kernels" / "brand_new.py").write_text("ANSWER = 41\n")
    ask = "from flashmatch.kernels.brand_new import ANSWER; print(ANSWER)"
    assert run(python, ask, tmp_path) == "41"
    (sources / "kernels" / "brand_new.py").write_text("ANSWER = 'forty-two'\n")
    assert run(python, ask, tmp_path) == "forty-two"
    assert not top_level_names(python, tmp_path)


def top_level_names(python: Path | str, cwd: Path) -> str:
    """Our folders' bare names, as far as an interpreter can find them."""
    taken = [name for name in BARE if find_spec(name)]  # someone else's
    return run(
        python,
        f"""
        import flashmatch
        from importlib.util import find_spec
        names = set({BARE!r}) - set({taken!r})
        print(*(name for name in names if find_spec(name)))
        """,
        cwd,
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH came with 3.11")
def test_safe_path_hides_the_folders_even_in_the_checkout(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert not top_level_names(sys.executable, ROOT)


def test_this_very_run_has_no_top_level_names() -> None:
    ours = [
        name
        for name in BARE
        if name in sys.modules and str(ROOT) in str(sys.modules[name].__file__)
    ]
    assert not ours


def test_import_is_light(tmp_path: Path) -> None:
    loaded = run(
        sys.executable,
        f"""
        import sys, torch
        before = set(sys.modules)  # torch may bring what it likes
        import flashmatch
        print(*(set({HEAVY!r}) & (set(sys.modules) - before)))
        print("cuda" if torch.cuda.is_initialized() else "")
        """,
        tmp_path,
    )
    assert loaded == ""


def test_works_without_the_optional_packages(tmp_path: Path) -> None:
    indices = run(
        sys.executable,
        f"""
        import sys
        sys.modules.update(dict.fromkeys({HEAVY!r}))  # None: as if not installed
        import flashmatch, flashmatch.kernels, flashmatch.retriever, torch
        print(flashmatch.topk(torch.eye(3), torch.eye(3), 1).indices.flatten().tolist())
        """,
        tmp_path,
    )
    assert indices == "[0, 1, 2]"
