"""Advice for families of models, chosen by the model's name."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.prompts.prompt_set import PromptError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ModelNote:
    """What models of a family are told at the end of the system message.

    Args:
        family: a name for people.
        patterns: the names of its models, in lower case, with `*` and `?`.
        text: the advice; may be empty.
    """

    family: str
    patterns: tuple[str, ...]
    text: str

    def matches(self, model: str) -> bool:
        """Tells whether a model belongs to the family. What comes before a slash in its name is passed over."""
        name = model.lower()
        names = (name, name.rpartition("/")[2])
        return any(fnmatch.fnmatchcase(one, pattern) for pattern in self.patterns for one in names)


def parse_model_notes(source: str) -> tuple[ModelNote, ...]:
    """Reads notes from TOML: tables `[FAMILY]` with `models`, a list of patterns, and `note`.

    Raises:
        PromptError: it is not such a file.
    """
    try:
        tables = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise PromptError(f"is no TOML: {error}") from None
    return tuple(_parse_note(family, table) for family, table in tables.items())


def note_for(model: str, notes: Sequence[ModelNote]) -> str:
    """Returns the advice for a model, of the first family that it belongs to, or an empty text."""
    return next((note.text for note in notes if note.matches(model)), "")


def _parse_note(family: str, table: object) -> ModelNote:
    if not isinstance(table, dict) or set(table) != {"models", "note"}:
        raise PromptError(f"[{family}] must have `models` and `note`, and nothing else")
    models, note = table["models"], table["note"]
    if not isinstance(models, list) or not models or not all(isinstance(one, str) and one for one in models):
        raise PromptError(f'[{family}] models must be a list of patterns, as "qwen*"')
    if not isinstance(note, str):
        raise PromptError(f"[{family}] note must be text")
    return ModelNote(family, tuple(pattern.lower() for pattern in models), note.strip())
