"""The image cache: built once, never loaded if it is stale or not whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sandbox_server.image import cache
from sandbox_server.image.cache import default_cache_directory, find_image, load_or_build_image
from sandbox_server.image.linking.wasm_format import section
from sandbox_server.wasm.engine import make_config
from sandbox_server.wasm.memory_image import path_for
from wasmtime import Engine, wat2wasm
from wasmtime.component import Component

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def component(tmp_path: Path) -> Path:
    """A cache that has the component, but not the compiled file."""
    real = load_or_build_image(default_cache_directory(), print)
    for name in (f"{real.digest}.wasm", f"{real.digest}.wasm.sha256"):
        shutil.copy(real.path.parent / name, tmp_path)
    return tmp_path


@pytest.fixture
def whole(component: Path) -> Path:
    """A cache that has everything."""
    real = load_or_build_image(default_cache_directory(), print)
    for path in (real.path, path_for(real.path)):
        for suffix in ("", ".sha256"):
            shutil.copy(f"{path}{suffix}", component)
    return component


def test_what_is_there_is_used_without_a_word(whole: Path) -> None:
    said: list[str] = []
    image = load_or_build_image(whole, said.append)
    assert image.path.parent == whole
    assert said == []


def test_of_several_processes_one_compiles_a_damaged_image_again_and_the_others_wait(whole: Path) -> None:
    image = find_image(whole)
    assert image is not None
    image.path.write_bytes(b"damaged")
    command = [sys.executable, "-m", "sandbox_server", "image", "build"]
    environment = os.environ | {"RLM_SANDBOX_CACHE": str(whole)}
    builders = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    said = "".join(builder.communicate(timeout=100)[1] for builder in builders)
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert said.count("compiling the standard sandbox image for this machine (once, about 10 s) ...") == 1
    assert said.count("waiting for another process that builds the sandbox image ...") <= 2
    assert said.count(f"image standard {image.digest[:16]} is in {whole}") == 3
    assert find_image(whole) == image
    assert not [path.name for path in whole.iterdir() if path.name.startswith("tmp")]


@pytest.mark.parametrize("damage", ["truncated", "changed", "no note"])
def test_a_compiled_file_that_is_not_whole_counts_as_missing(whole: Path, damage: str) -> None:
    image = find_image(whole)
    assert image is not None
    if damage == "truncated":
        image.path.write_bytes(image.path.read_bytes()[:-1])
    elif damage == "changed":
        data = bytearray(image.path.read_bytes())
        data[len(data) // 2] ^= 1
        image.path.write_bytes(data)
    else:
        image.path.with_name(image.path.name + ".sha256").unlink()
    assert find_image(whole) is None


def test_a_compiled_file_without_that_of_its_memory_counts_as_missing(whole: Path) -> None:
    image = find_image(whole)
    assert image is not None
    path_for(image.path).unlink()
    assert find_image(whole) is None


def test_other_sources_or_another_machine_have_another_name(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = find_image(whole)
    assert before is not None
    monkeypatch.setattr(cache, "_cpu_features", lambda: b"another machine")
    other_machine = cache._expected_image(whole, None)
    assert other_machine.digest == before.digest
    assert other_machine.path != before.path
    guest = tmp_path / "guest"
    shutil.copytree(cache._GUEST, guest)
    (guest / "app.py").write_text((guest / "app.py").read_text() + "\n# changed\n")
    monkeypatch.setattr(cache, "_GUEST", guest)
    assert cache._expected_image(whole, None).digest != before.digest


def test_a_failed_build_tells_what_the_tool_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = tmp_path / "guest"
    shutil.copytree(cache._GUEST, guest)
    (guest / "app.py").write_text("raise RuntimeError('broken on purpose')")
    monkeypatch.setattr(cache, "_GUEST", guest)
    with pytest.raises(cache.ImageBuildError, match="broken on purpose"):
        load_or_build_image(tmp_path / "cache", print)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == []


@pytest.mark.slow
def test_an_image_that_is_whole_is_built_again_if_that_is_asked_for(whole: Path) -> None:
    before = find_image(whole)
    assert before is not None
    said: list[str] = []
    assert load_or_build_image(whole, said.append, force=True) == before
    assert [line.partition(" ")[0] for line in said] == ["building", "compiling"]
    assert find_image(whole) == before


def _replace_component(directory: Path, data: bytes) -> None:
    image = find_image(directory)
    assert image is not None
    image.path.unlink()
    cache._write(image.component, data)


def test_a_component_that_cannot_be_read_is_told(whole: Path) -> None:
    _replace_component(whole, b"no component")
    with pytest.raises(cache.ImageBuildError, match=r"\.wasm cannot be used: this is not a component"):
        load_or_build_image(whole, print)


def test_a_component_that_cannot_be_compiled_is_told(whole: Path) -> None:
    module = bytes(wat2wasm('(module (memory 1) (data (i32.const 0) "x"))'))
    unknown_section = bytes([99, 0])
    _replace_component(whole, b"\0asm\x0d\0\1\0" + section(1, module) + unknown_section)
    with pytest.raises(cache.ImageBuildError, match="wasmtime cannot compile the image"):
        load_or_build_image(whole, print)


def test_the_image_exports_what_the_host_calls_and_imports_what_the_host_gives() -> None:
    engine = Engine(make_config())
    component = Component.deserialize_file(engine, str(load_or_build_image(default_cache_directory(), print).path))
    assert {"load", "handle"} <= set(component.type.exports(engine))
    imports = {name.partition("@")[0] for name in component.type.imports(engine)}
    assert {name for name in imports if not name.startswith("wasi:")} == {"emit", "call-start", "call-wait"}
