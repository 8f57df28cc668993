"""The JSON Schema of an answer, from a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from rlm_client import JsonSchema


def read_schema(path: Path | None) -> JsonSchema | None:
    """Returns the schema in a file; None if there is no file.

    Raises:
        SettingsError: it cannot be read, or is no JSON object; the message names the file.
    """
    if path is None:
        return None
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"--answer-schema {path}: {error}") from error
    if not isinstance(schema, dict):
        raise SettingsError(f"--answer-schema {path}: is no JSON object")
    return schema
