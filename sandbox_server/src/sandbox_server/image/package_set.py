"""Packages from the package index for an image: chosen, downloaded as wheels, and kept beside the images.

A sandbox runs no machine code but its own, so of a wheel only what is pure Python can be used. Packages whose compiled
parts are optional, as PyYAML's, work without them; whether one does shows when the image is built, as it is imported
then.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_server.image.digests import digest_of
from sandbox_server.model import STANDARD_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_NAME_CHARS = 50

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[A-Za-z0-9,._ -]+\])?[<>=!~ ,.*\w+-]*")
_COMPILED = {".so", ".pyd", ".dylib", ".dll", ".pyx", ".pxd", ".c", ".h"}
_UNUSED_DIRECTORIES = ("bin", "share")
_PLATFORMS = ("any", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
"""Wheels for these are looked at, pure ones first; of the others the compiled parts are dropped anyway."""

_DIRECTORY = "packages"
_MANIFEST = "packages.json"
_SITE = "site"


class PackageError(Exception):
    """Packages cannot be had or named so; the message says why and what to do."""


@dataclass(frozen=True)
class PackageSet:
    """The packages of an image.

    Attributes:
        name: of the image.
        requirements: what was asked for, as pip takes it.
        packages: what that came to, dependencies included, as `name==version`, sorted.
        modules: all modules at the top level.
        required: for each package that was asked for, its modules at the top level, of which one must import.
        dropped_files: how many compiled files were left out.
        digest: of all files, 64 hexadecimal digits.
        directory: where the files are.
    """

    name: str
    requirements: Sequence[str]
    packages: Sequence[str]
    modules: Sequence[str]
    required: Mapping[str, Sequence[str]]
    dropped_files: int
    digest: str
    directory: Path


def check_name(name: str) -> None:
    """Checks the name of an image with packages.

    Raises:
        PackageError: it is none.
    """
    if name == STANDARD_IMAGE:
        raise PackageError(f"{name!r} is the image without packages; choose another name with --name")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise PackageError(
            f"{name[:MAX_NAME_CHARS]!r} is no name for an image; choose lower-case letters, digits, '-', '_' and '.', "
            f"at most {MAX_NAME_CHARS}"
        )


def install(
    cache: Path, name: str, requirements: Sequence[str], python_version: str, progress: Callable[[str], None]
) -> PackageSet:
    """Downloads packages with all that they depend on, and keeps them under a name, in place of what was there.

    Args:
        cache: the directory of the images.
        name: of the image.
        requirements: as pip takes them, as `sympy` or `networkx>=3`.
        python_version: of the guest, as `3.14.0`.
        progress: is told, in a line for people, what takes time.

    Raises:
        PackageError: the name is none, or a package cannot be had.
        OSError: the cache cannot be written.
    """
    check_name(name)
    for requirement in requirements:
        if not _REQUIREMENT.fullmatch(requirement):
            raise PackageError(
                f"{requirement[:100]!r} is no requirement; give a package's name, as sympy or sympy==1.14.0"
            )
    progress(f"downloading {', '.join(requirements)} ...")
    parent = cache / _DIRECTORY
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        site = Path(temporary) / name / _SITE
        _pip_install(site, requirements, python_version)
        manifest = _describe(name, requirements, site)
        (site.parent / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(parent / name, ignore_errors=True)
        site.parent.rename(parent / name)
    return _read(parent / name)


def find_all(cache: Path) -> list[PackageSet]:
    """Returns the package sets that are kept, by name."""
    return [_read(manifest.parent) for manifest in sorted((cache / _DIRECTORY).glob(f"*/{_MANIFEST}"))]


def remove(cache: Path, name: str) -> bool:
    """Forgets a package set; returns whether there was one."""
    directory = cache / _DIRECTORY / name
    if not _NAME.fullmatch(name) or not (directory / _MANIFEST).exists():
        return False
    shutil.rmtree(directory)
    return True


def _pip_install(site: Path, requirements: Sequence[str], python_version: str) -> None:
    short_version = ".".join(python_version.split(".")[:2])
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-compile", "--target", str(site), "--only-binary", ":all:", "--python-version", short_version]
    command += ["--implementation", "cp"]
    command += [part for abi in ("none", "abi3", f"cp{short_version.replace('.', '')}") for part in ("--abi", abi)]
    command += [part for platform in _PLATFORMS for part in ("--platform", platform)]
    completed = subprocess.run([*command, "--", *requirements], check=False, capture_output=True, text=True)
    if completed.returncode != 0:
        raise PackageError(f"pip cannot get them:\n{completed.stderr.strip()}")


def _describe(name: str, requirements: Sequence[str], site: Path) -> dict[str, object]:
    asked_for = {_canonical(re.split(r"[^A-Za-z0-9._-]", requirement)[0]) for requirement in requirements}
    packages: list[str] = []
    modules: set[str] = set()
    required: dict[str, list[str]] = {}
    for info in sorted(site.glob("*.dist-info")):
        distribution = PathDistribution(info)
        found = set(_top_level(distribution, site))
        packages.append(f"{distribution.name}=={distribution.version}")
        modules |= found
        if _canonical(distribution.name) in asked_for:
            required[distribution.name] = sorted(found)
    dropped = _drop_compiled(site)
    return {
        "name": name,
        "requirements": list(requirements),
        "packages": packages,
        "modules": sorted(modules),
        "required": required,
        "dropped_files": dropped,
        "digest": _digest(site),
    }


def _top_level(distribution: PathDistribution, site: Path) -> Iterable[str]:
    for file in distribution.files or ():
        first = file.parts[0]
        if len(file.parts) == 1 and file.suffix == ".py":
            yield file.stem
        elif len(file.parts) > 1 and first.isidentifier() and first not in _UNUSED_DIRECTORIES and file.suffix == ".py":
            yield first
        elif len(file.parts) == 1 and file.suffix in _COMPILED and not (site / first).is_dir():
            yield first.partition(".")[0]  # a module that is compiled as a whole: importing it will tell


def _drop_compiled(site: Path) -> int:
    """Removes what cannot run in the sandbox; returns how many files that were."""
    for name in _UNUSED_DIRECTORIES:
        shutil.rmtree(site / name, ignore_errors=True)
    compiled = [path for path in site.rglob("*") if path.is_file() and path.suffix in _COMPILED]
    for path in compiled:
        path.unlink()
    return len(compiled)


def _digest(site: Path) -> str:
    files = sorted(path for path in site.rglob("*") if path.is_file())
    return digest_of(part for path in files for part in (path.relative_to(site).as_posix().encode(), path.read_bytes()))


def _canonical(name: str) -> str:
    """Returns a package's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(directory: Path) -> PackageSet:
    manifest = json.loads((directory / _MANIFEST).read_text())
    return PackageSet(**manifest, directory=directory / _SITE)
