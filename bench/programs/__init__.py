"""Programs of pure Python whose speed is compared: each a file that defines `run()`, which returns something small."""

from __future__ import annotations

from pathlib import Path

PROGRAMS = {path.stem: path.read_text() for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))}
"""Name to source."""
