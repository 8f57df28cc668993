"""The guest image on disk: built once, compiled once for each kind of machine, kept under a hash of all that went in.

Three files are kept: the component (portable), its compiled form (only for CPUs with the same features, the same
wasmtime and the same configuration), and what its memory begins with. Each is written to a temporary file and renamed,
so a half-written one is never seen, and is checked against the digest that was noted when it was written, so a corrupt
one is built again.
Of several processes that need the image at once, one builds it and the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from wasmtime import Engine
from wasmtime.component import Component

from sandbox_server.image import call_cycles, libc_patch, linking, metering, package_set, preparation
from sandbox_server.image.digests import digest_of
from sandbox_server.image.linking.component_linker import link_component
from sandbox_server.image.linking.wasm_format import UnsupportedFormatError
from sandbox_server.model import STANDARD_IMAGE
from sandbox_server.wasm import memory_image
from sandbox_server.wasm.engine import ENGINE_OPTIONS, make_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandbox_server.image.package_set import PackageSet

PYTHON_VERSION = "3.14.0"
"""Version of CPython that the pinned componentize-py carries; a test asks the image itself."""

_GUEST_LIBRARIES = ("fastjsonschema",)
"""Packages of pure Python that are built into the image for its harness."""

_BUILD_TIMES = ("about 15 s", "up to a few minutes")

_GUEST = Path(__file__).resolve().parent.parent / "guest"
_TOOLS = [
    Path(libc_patch.__file__),
    *sorted(Path(linking.__file__).parent.glob("*.py")),
]
"""What the image is worked over with after it was built."""

_PREPARING_TOOLS = [
    *(Path(preparation.__file__), Path(metering.__file__), Path(call_cycles.__file__)),
    Path(memory_image.__file__),
]
"""What it is worked over with before it is compiled."""


class ImageBuildError(Exception):
    """The image could not be built or compiled; the message has what the tool told."""


@dataclass(frozen=True)
class CompiledImage:
    """An image that is ready to run.

    Attributes:
        name: what requests call it.
        path: the compiled file; the file of its memory lies beside it.
        component: what it was compiled from.
        digest: hash of the sources and tools that the image was built from, 64 hexadecimal digits.
        python_version: version of the CPython in it.
        packages: what it holds beyond the standard library, as `name==version`.
    """

    name: str
    path: Path
    component: Path
    digest: str
    python_version: str
    packages: Sequence[str] = ()


def default_cache_directory() -> Path:
    """Returns `$RLM_SANDBOX_CACHE`, or `rlm-sandbox` in the user's cache directory (XDG Base Directory)."""
    chosen = os.environ.get("RLM_SANDBOX_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlm-sandbox"


def find_image(directory: Path, packages: PackageSet | None = None) -> CompiledImage | None:
    """Returns the image, without packages or with these, if it is in the cache and whole."""
    image = _expected_image(directory, packages)
    return image if _is_ready(image) else None


def load_or_build_images(directory: Path, progress: Callable[[str], None]) -> list[CompiledImage]:
    """Returns the standard image, and then all those with packages that were built into this cache.

    One with packages that cannot be built any more, as after an update, is left out, and `progress` is told why.

    Raises:
        ImageBuildError: the standard image could not be built.
        OSError: the cache cannot be written.
    """
    images = [load_or_build_image(directory, progress)]
    for packages in package_set.find_all(directory):
        try:
            images.append(load_or_build_image(directory, progress, packages))
        except ImageBuildError as error:
            progress(f"image {packages.name} is left out: {error}")
    return images


def load_or_build_image(
    directory: Path, progress: Callable[[str], None], packages: PackageSet | None = None, *, force: bool = False
) -> CompiledImage:
    """Returns the image, and makes it first if the cache does not have it.

    Args:
        directory: the cache; made if it does not exist.
        progress: is told, in a line for people, what takes time.
        packages: what it holds beyond the standard library.
        force: make it even if the cache has it.

    Raises:
        ImageBuildError: the image could not be built.
        OSError: the cache cannot be written.
    """
    image = _expected_image(directory, packages)
    if not force and _is_ready(image):
        return image
    _make_writable(directory)
    with _locked(directory, progress):
        if not force and _is_ready(image):
            return image
        if force or not _is_whole(image.component):
            progress(f"building the {image.name} sandbox image (once, {_BUILD_TIMES[packages is not None]}) ...")
            _write(image.component, _rework(_componentize(packages)))
        progress(f"compiling the {image.name} sandbox image for this machine (once, about 10 s) ...")
        code, memory = _compile(image.component)
        _write(memory_image.path_for(image.path), memory)
        _write(image.path, code)
    return image


def _make_writable(directory: Path) -> None:
    """Tells before the work, not after it, that there is no place for what comes of it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise ImageBuildError(
            f"the image cache {directory} cannot be written: {error.strerror}; "
            "set RLM_SANDBOX_CACHE to a directory that can be"
        ) from error


@contextlib.contextmanager
def _locked(directory: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Keeps other processes from building at the same time. They wait, and then find what they need."""
    lock = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that builds the sandbox image ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _expected_image(directory: Path, packages: PackageSet | None) -> CompiledImage:
    digest = digest_of(
        [packages.digest.encode() for packages in (packages,) if packages]
        + [version(name).encode() for name in ("componentize-py", *_GUEST_LIBRARIES)]
        + [path.read_bytes() for path in _TOOLS]
        + [part for path in sorted(_GUEST.glob("*.[pw]*")) for part in (path.name.encode(), path.read_bytes())]
    )
    machine = digest_of(
        [digest.encode(), version("wasmtime").encode(), ENGINE_OPTIONS.encode(), _cpu_features()]
        + [path.read_bytes() for path in _PREPARING_TOOLS]
    )
    path = directory / f"{digest[:16]}-{machine[:16]}.cwasm"
    name, held = (packages.name, packages.packages) if packages else (STANDARD_IMAGE, ())
    return CompiledImage(name, path, directory / f"{digest}.wasm", digest, PYTHON_VERSION, tuple(held))


def _cpu_features() -> bytes:
    """Names the machine: code compiled for one CPU may use instructions that another lacks."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return "\n".join([platform.system(), platform.machine(), *features]).encode()


def _is_ready(image: CompiledImage) -> bool:
    return _is_whole(image.path) and _is_whole(memory_image.path_for(image.path))


def _is_whole(path: Path) -> bool:
    note = path.with_name(path.name + ".sha256")
    if not (path.exists() and note.exists()):
        return False
    with path.open("rb") as file:
        return note.read_text() == hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    for target, content in ((path, data), (path.with_name(path.name + ".sha256"), _hex_digest(data))):
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _rework(component: bytes) -> bytes:
    """Mends what componentize-py made, and links it into one module."""
    try:
        return link_component(libc_patch.report_full_disk(component))
    except (libc_patch.UnknownLibraryError, UnsupportedFormatError) as error:
        raise ImageBuildError(f"componentize-py made what the sandbox cannot use: {error}") from error


def compile_component(component: str, output: str) -> None:
    """Compiles a component into a file, ahead of time for this machine."""
    Path(output).write_bytes(Component.from_file(Engine(make_config()), component).serialize())


def _compile(component: Path) -> tuple[bytes, bytes]:
    """Returns the compiled code, and the file of the memory.

    Compiles in a process of its own, as a server would not get rid of the memory that this takes.
    """
    try:
        prepared, memory = preparation.prepare(component.read_bytes())
    except UnsupportedFormatError as error:
        raise ImageBuildError(f"{component} cannot be used: {error}") from error
    with tempfile.TemporaryDirectory() as directory:
        source, output = Path(directory) / "image.wasm", Path(directory) / "image.cwasm"
        source.write_bytes(prepared)
        code = f"from {__name__} import compile_component; import sys; compile_component(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(source), str(output)]
        completed = subprocess.run(command, check=False, capture_output=True, text=True)
        if completed.returncode != 0:
            raise ImageBuildError(f"wasmtime cannot compile the image:\n{completed.stderr}")
        return output.read_bytes(), memory


def _hex_digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _package(name: str) -> Path:
    """Returns the directory of an installed package."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImageBuildError(f"the image needs the package {name}, which is not installed: pip install {name}")
    return Path(spec.submodule_search_locations[0])


def _componentize(packages: PackageSet | None) -> bytes:
    """Runs componentize-py in a process of its own: it writes to stdout, and a failure must not take this one along."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "image.wasm"
        libraries = Path(directory) / "libraries"
        for name in _GUEST_LIBRARIES:
            shutil.copytree(_package(name), libraries / name, ignore=shutil.ignore_patterns("__pycache__"))
        site = [packages.directory] if packages else []
        if packages:
            libraries.joinpath("image_packages.py").write_text(
                f"MODULES = {tuple(packages.modules)!r}\nREQUIRED = {dict(packages.required)!r}\n"
            )
        # What is found first is taken: the list of packages before the one of none, and the guest before any package.
        paths = [part for path in (libraries, _GUEST, *site) for part in ("--python-path", str(path))]
        arguments = ["--wit-path", str(_GUEST / "guest.wit"), "--world", "guest", "componentize", "app"]
        completed = subprocess.run(
            [
                *(sys.executable, "-c", "import sys; from componentize_py import script; sys.exit(script())"),
                *(*arguments, *paths, "--output", str(output)),
            ],
            # Out of the sources, and without what a developer's environment may hold for other interpreters.
            env={"PATH": os.environ.get("PATH", ""), "PYTHONDONTWRITEBYTECODE": "1", "HOME": directory},
            cwd=directory,
            check=False,
            capture_output=True,
            text=True,
        )
        if completed.returncode != 0 or not output.exists():
            raise ImageBuildError(f"componentize-py failed:\n{completed.stdout}{completed.stderr}")
        return output.read_bytes()
