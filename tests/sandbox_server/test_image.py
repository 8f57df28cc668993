"""The image cache: built once, never loaded if it is stale or not whole."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from sandbox_server.image import cache
from sandbox_server.image.cache import default_cache_directory, find_image, load_or_build_image
from sandbox_server.image.component_probe import UnsupportedComponentError, add_memory_probe

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
    for suffix in ("", ".sha256"):
        shutil.copy(f"{real.path}{suffix}", component)
    return component


def test_what_is_there_is_used_without_a_word(whole: Path) -> None:
    said: list[str] = []
    image = load_or_build_image(whole, said.append)
    assert image.path.parent == whole
    assert said == []


def test_a_missing_compiled_file_is_compiled_with_a_word(component: Path) -> None:
    assert find_image(component) is None
    said: list[str] = []
    image = load_or_build_image(component, said.append)
    assert said == ["compiling the sandbox image for this machine (once, about 10 s) ..."]
    assert find_image(component) == image


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


def test_other_sources_or_another_machine_have_another_name(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = find_image(whole)
    assert before is not None
    monkeypatch.setattr(cache, "_cpu_features", lambda: b"another machine")
    other_machine = cache._expected_image(whole)
    assert other_machine.digest == before.digest
    assert other_machine.path != before.path
    guest = tmp_path / "guest"
    shutil.copytree(cache._GUEST, guest)
    (guest / "app.py").write_text((guest / "app.py").read_text() + "\n# changed\n")
    monkeypatch.setattr(cache, "_GUEST", guest)
    assert cache._expected_image(whole).digest != before.digest


def test_a_failed_build_tells_what_the_tool_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = tmp_path / "guest"
    shutil.copytree(cache._GUEST, guest)
    (guest / "app.py").write_text("raise RuntimeError('broken on purpose')")
    monkeypatch.setattr(cache, "_GUEST", guest)
    with pytest.raises(cache.ImageBuildError, match="broken on purpose"):
        load_or_build_image(tmp_path / "cache", print)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == []


@pytest.mark.parametrize("data", [b"", b"\0asm\1\0\0\0", b"no wasm at all"])
def test_what_is_no_component_gets_no_probe(data: bytes) -> None:
    with pytest.raises(UnsupportedComponentError):
        add_memory_probe(data)
