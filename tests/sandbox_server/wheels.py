"""Wheels made on the spot, so that images with packages can be tested without an index."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_wheel(
    directory: Path, name: str, version: str, files: Mapping[str, str], *, tag: str = "py3-none-any", requires: str = ""
) -> None:
    """Writes a wheel (PEP 427).

    Args:
        directory: where to.
        name: of the package.
        version: of the package.
        files: their texts, by path.
        tag: what it runs on.
        requires: another package that it needs.
    """
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    content = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in (*content, f"{info}/RECORD"))
    with zipfile.ZipFile(directory / f"{name}-{version}-{tag}.whl", "w") as wheel:
        for path, text in (content | {f"{info}/RECORD": record}).items():
            wheel.writestr(path, text)
