"""Reads a large JSON document in a process of its own, within bounded memory, and tells its outline.

A few bytes of JSON can take many of memory, as each `[]` does some sixty, so the server does not read what is large
itself. `python -m rlm_server.json_check FILE KIND MAX_BYTES` writes the outline as JSON and exits with 0, or what is
wrong with the document as text and exits with 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path

from rlm_server.engine.documents import check_documents
from rlm_server.engine.repl.outlines import Outline, outline_json

LARGE_BYTES = 16 * 1024 * 1024
"""Larger documents are read in a process of their own."""

_MEMORY_PER_BYTE = 6
_LEAST_MEMORY_BYTES = 2 * 1024**3
_MAX_SECONDS = 300
_PASSED_ENVIRONMENT = ("LANG", "LC_ALL", "PATH", "PYTHONPATH")


def check_json_file(path: Path, *, is_documents: bool) -> Outline:
    """Checks a file that should have a JSON document, and returns its outline. It blocks.

    Args:
        path: the file, which has UTF-8.
        is_documents: it should have a list of documents.

    Raises:
        ValueError: it has none, or one that takes too much memory; the message says which.
    """
    size_bytes = path.stat().st_size
    if size_bytes <= LARGE_BYTES:
        return _read(path, is_documents=is_documents)
    limit_bytes = max(_LEAST_MEMORY_BYTES, _MEMORY_PER_BYTE * size_bytes)
    kind = "documents" if is_documents else "json"
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(path), kind, str(limit_bytes)],
        env={name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return Outline(**json.loads(done.stdout))
    if done.returncode == 1 and done.stdout:
        raise ValueError(done.stdout)
    raise ValueError(
        f"it takes more than {limit_bytes:,} bytes of memory to read as JSON; give it as text, or in several parts"
    )


def main() -> int:
    """Reads the document that the arguments name; returns the exit code."""
    path, kind, limit_bytes = sys.argv[1:]
    with contextlib.suppress(ValueError, OSError):  # not every system can bound memory
        resource.setrlimit(resource.RLIMIT_AS, (int(limit_bytes), int(limit_bytes)))
    try:
        outline = _read(Path(path), is_documents=kind == "documents")
    except ValueError as error:
        sys.stdout.write(str(error))
        return 1
    sys.stdout.write(json.dumps(dataclasses.asdict(outline)))
    return 0


def _read(path: Path, *, is_documents: bool) -> Outline:
    # Through a map of the file its bytes are not in memory twice.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        text = str(view, "utf-8")
    if is_documents:
        check_documents(text)
    return outline_json(text)


if __name__ == "__main__":
    sys.exit(main())
