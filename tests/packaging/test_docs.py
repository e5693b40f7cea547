"""What the documents show, runs and prints what they say; the commands that they name exist."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
from programs import output_of

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

BY_NAME = {path.relative_to(pages.ROOT).as_posix(): path.read_text() for path in pages.PAGES}
PAGE = """\
Text.

```python
x = [
    1]
```

```python
print(x)
```

```text
[1]
```

Between them.

```text
[2]
```
```python
raise SystemExit(x[1])
```
"""


@pytest.mark.parametrize("name", pages.RUNS_IN["tests"])
def test_page_runs(name: str, tmp_path: Path) -> None:
    assert pages.run(BY_NAME[name], tmp_path) == pages.shown(BY_NAME[name])


def test_every_page_with_code_runs_somewhere() -> None:
    """A new page is to be named in ``RUNS_IN``."""
    with_code = {name for name, page in BY_NAME.items() if pages.program(page).strip()}
    assert with_code == {name for names in pages.RUNS_IN.values() for name in names}


@pytest.mark.parametrize("name", BY_NAME)
def test_blocks_say_what_they_are(name: str) -> None:
    found = list(pages.blocks(BY_NAME[name]))
    assert BY_NAME[name].count("```") == 2 * len(found)
    assert {block.kind for block in found} <= set(pages.KINDS)
    for block in found:
        if block.kind == "diff":
            assert all(line[:1] in ("+", "-", " ", "") for line in block.text.splitlines())
            assert re.search("^-.*(\n|.)*^[+]", block.text, re.MULTILINE)


@pytest.mark.parametrize("name", [*pages.RUNS_IN["tests"], *pages.RUNS_IN["dropin"]])
def test_what_a_diff_adds_is_run_too(name: str) -> None:
    code = pages.program(BY_NAME[name]).splitlines()
    for block in pages.blocks(BY_NAME[name]):
        if block.kind == "diff":
            added = [line[1:] for line in block.text.splitlines() if line.startswith("+")]
            assert set(added) <= set(code)


def commands() -> Iterator[list[str]]:
    """The words of each line for a shell, and of each span of code, of all pages and examples."""
    for page in BY_NAME.values():
        shell = "".join(block.text for block in pages.blocks(page) if block.kind == "bash")
        prose = re.sub(r"^```(?:.*\n)*?```$", "", page, flags=re.MULTILINE)
        for code in [*shell.splitlines(), *re.findall("`([^`\n]+)`", prose)]:
            yield words(code)
    for example in pages.ROOT.glob("examples/*.py"):
        yield from map(words, re.findall("^    (python .+)", example.read_text(), re.MULTILINE))


def words(code: str) -> list[str]:
    try:
        return shlex.split(code, comments=True)
    except ValueError:  # an apostrophe: no command
        return []


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def test_make_has_the_targets_and_variables() -> None:
    rules = (pages.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", rules, re.MULTILINE))
    variables = set(re.findall(r"\$\((\w+)\)", rules))
    wanted = [command[1:] for command in commands() if command[:1] == ["make"]]
    assert ["fuzz", "N=2000"] in wanted
    for word in (word for command in wanted for word in command):
        name, is_variable, _ = word.partition("=")
        assert name in (variables if is_variable else targets) or word.startswith("--")


def test_extras_exist() -> None:
    project = tomllib.loads((pages.ROOT / "pyproject.toml").read_text())["project"]
    texts = [*BY_NAME.values(), *(path.read_text() for path in pages.ROOT.glob("examples/*.py"))]
    found = re.findall(r"(?:flashmatch|\"\.)\[([\w,-]+)\]", "\n".join(texts))
    extras = {extra for names in found for extra in names.split(",")}
    assert {"examples", "mmpretrain", "vision"} <= extras <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("pattern", "an_example"),
    [
        (r"(?:\S+/)?(flashmatch (?:demo|info)\b)", "flashmatch demo --images DIR"),
        (r"(?:\S*/)?python (bench [a-z]+)", ".venv/bin/python bench run --quick"),
        (r"(?:\S*/)?python (examples/\w+.py)", "python examples/dedup_folder.py --images DIR"),
        (r"make (faults) FAULTS=", "make faults FAULTS=--kills 1500 --seed 7"),
    ],
)
def test_programs_have_the_options(pattern: str, an_example: str) -> None:
    wanted: dict[str, set[str]] = {}
    lines = {" ".join(command) for command in commands()}
    assert an_example in lines
    for line in lines:
        if found := re.match(pattern, line):
            wanted.setdefault(found[1], set()).update(options_in(line))
    for program, options in wanted.items():
        is_module = program.startswith(("flashmatch", "faults"))
        run = [*["-m"][:is_module], *program.split(), "--help"]
        environment = os.environ | {"PYTHONPATH": "tests/support"}
        shown = output_of(*run, cwd=pages.ROOT, env=environment)
        assert options <= options_in(shown), program


def test_files_exist() -> None:
    """What links lead to, and what code spans name."""
    for path, page in zip(pages.PAGES, BY_NAME.values(), strict=True):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page):
            assert (path.parent / target).exists(), (path, target)
    for word in (word for command in commands() for word in command):
        if re.fullmatch(r"(?:examples|tests|docs|bench|kernels)/[\w./*-]+", word):
            assert any(pages.ROOT.glob(word)), word


def test_a_page_is_one_program(tmp_path: Path) -> None:
    *_, wrong = pages.blocks(PAGE)
    assert [block.kind for block in pages.blocks(PAGE)] == [
        *("python", "python", "text", "text", "python")
    ]
    right = PAGE.replace(wrong.text, "")
    assert pages.run(right, tmp_path) == pages.shown(right) == "[1]\n"
    line = PAGE.splitlines().index(wrong.text.strip()) + 1
    with pytest.raises(AssertionError, match=f"line {line}, in"):
        pages.run(PAGE, tmp_path)
