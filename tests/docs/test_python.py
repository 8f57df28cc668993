"""The Python code of the documents does what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import CodeBlock, code_blocks, documents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GAP = "[...]"


def examples() -> list[tuple[CodeBlock, CodeBlock]]:
    """Returns each block of Python with the one after it, which is to be its output."""
    found = []
    for document in documents():
        blocks = code_blocks(document)
        found += [(block, blocks[index + 1]) for index, block in enumerate(blocks[:-1]) if block.language == "python"]
    return found


@pytest.mark.parametrize(("program", "output"), examples(), ids=str)
def test_an_example_prints_what_the_document_says(
    program: CodeBlock, output: CodeBlock, at_real_addresses: Callable[[str], str], tmp_path: Path
) -> None:
    file = tmp_path / "example.py"
    file.write_text(at_real_addresses(program.text), encoding="utf-8")
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert output.language == "text", f"{program} is not followed by its output"
    position = 0
    for line in output.text.splitlines():
        pattern = re.escape(line).replace(re.escape(GAP), ".*")
        found = re.compile(pattern).search(done.stdout, position)
        assert found, f"{line!r} is not in this, or not at its place:\n{done.stdout}"
        position = found.end()


def test_there_are_examples_of_both_clients() -> None:
    texts = [program.text for program, _ in examples()]
    assert any("import Client" in text for text in texts)
    assert any("AsyncClient" in text for text in texts)
