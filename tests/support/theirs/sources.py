"""Where a library's own tests are: in its installed package, in Debian's sources, in a clone.

    source installed scikit-learn 1.9.1 sklearn/neighbors/tests
    source debian faiss 1.7.3 faiss_1.7.3.orig.tar.gz SHA256 tests
    source git https://github.com/owner/name COMMIT tests

Debian's are fetched by apt-get and kept in build/theirs; clones are put there by whoever wants
them: no sdist of these libraries carries its tests.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from .lists import Listing

KEPT = Path(__file__).parents[3] / "build" / "theirs"


class NotToBeHad(Exception):
    """The tests cannot be obtained here; the message says why, and what would help."""


def obtain(listing: Listing, folder: Path) -> Path:
    """The folder of the tests: in ``folder``, unless they are installed.

    Raises:
        NotToBeHad: a module is missing, another version installed, no network, no clone.
    """
    for module in listing.needs:
        if find_spec(module) is None:
            raise NotToBeHad(f"{module} is not installed")
    kind, *place = listing.source
    return {"installed": _installed, "debian": _debian, "git": _git}[kind](folder, *place)


def _installed(folder: Path, distribution: str, wanted: str, tests: str) -> Path:
    if (there := version(distribution)) != wanted:
        raise NotToBeHad(f"the list is of {distribution} {wanted}, and {there} is installed")
    package, _, rest = tests.partition("/")
    return Path(find_spec(package).origin).parent / rest


def _debian(folder: Path, package: str, _: str, file: str, sha256: str, tests: str) -> Path:
    archive = KEPT / file
    if not archive.exists():
        _fetch_source(package, archive, folder)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{archive} must have the SHA-256 of its list; remove it if it is damaged")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (root,) = (folder / "unpacked").iterdir()
    return root / tests


def _fetch_source(package: str, archive: Path, folder: Path) -> None:
    """By apt-get, from wherever this machine has its packages, into lists of its own."""
    if shutil.which("apt-get") is None:
        raise NotToBeHad(f"{archive.name} comes by apt-get, which is not here")
    target = (
        "--format",
        "$(SITE) $(CODENAME) $(COMPONENT)",
        "Created-By: Packages",
        "Origin: Debian",
    )
    sites = _output(["apt-get", "indextargets", *target]).splitlines()
    lists, sources = folder / "lists", folder / "sources.list"
    (lists / "partial").mkdir(parents=True)
    keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    sources.write_text("".join(f"deb-src {keys} {site}\n" for site in sites))
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": lists,
    }
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in settings.items())]
    _output([*apt, "update"])
    _output([*apt, "source", "--download-only", package], cwd=folder)
    if not (folder / archive.name).exists():
        raise NotToBeHad(f"{archive.name} is not what this Debian offers of {package}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    os.replace(shutil.copy(folder / archive.name, f"{archive}.{os.getpid()}"), archive)


def _git(folder: Path, url: str, commit: str, tests: str) -> Path:
    clone = KEPT / url.rpartition("/")[2]
    if not clone.exists():
        raise NotToBeHad(f"no package has them, nor build/theirs/{clone.name} a clone of {url}")
    packed = folder / "tests.tar"
    _output(["git", "-C", str(clone), "archive", "--output", str(packed), commit, tests])
    with tarfile.open(packed) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    return folder / "unpacked" / tests


def _output(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise NotToBeHad(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
