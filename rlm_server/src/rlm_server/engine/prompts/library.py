"""The sets of texts that a server has: those that come with it, and those of its operator."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.prompts.model_notes import ModelNote, note_for, parse_model_notes
from rlm_server.engine.prompts.prompt_set import PROMPT_NAMES, PromptError, PromptSet, check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.resources.abc import Traversable
    from pathlib import Path

DEFAULT_PROMPTS = "v1"
"""The set that is used where none is named."""

BUILT_IN = ("v1",)
"""The sets that come with the server. What has been released is not changed but by a new set."""

_KEPT_NOTES = 200
"""Of models, whose names are those that requests give."""

_SUFFIX = ".txt"
_NOTES_FILE = "model_notes.toml"


class UnknownPromptsError(Exception):
    """A set that the server does not have; the message says which it has."""


@dataclass(frozen=True)
class PromptLibrary:
    """Sets of texts by their names.

    Args:
        sets: the sets.
        operator_names: those among them that the operator made or changed.
        model_notes: advice for families of models; the first that fits counts.
        default: the name of the set that is used where none is named.

    Raises:
        UnknownPromptsError: there is no set with the default's name.
    """

    sets: Mapping[str, PromptSet]
    operator_names: frozenset[str]
    model_notes: Sequence[ModelNote]
    default: str = DEFAULT_PROMPTS

    def __post_init__(self) -> None:
        self.get(self.default)

    @functools.cached_property
    def _notes(self) -> Callable[[str], str]:
        return functools.lru_cache(_KEPT_NOTES)(lambda model: note_for(model, self.model_notes))

    def get(self, name: str) -> PromptSet:
        """Returns a set; an empty name stands for the default.

        Raises:
            UnknownPromptsError: there is none.
        """
        found = self.sets.get(name or self.default)
        if found is None:
            raise UnknownPromptsError(f"there is no set {name[:100]!r}; there are: {', '.join(self.sets)}")
        return found

    def note_for(self, model: str) -> str:
        """Returns the advice for a model, or an empty text."""
        return self._notes(model)


def load_library(directory: Path | None = None, default: str = DEFAULT_PROMPTS) -> PromptLibrary:
    """Reads the sets that come with the server, and an operator's.

    Args:
        directory: the operator's; None means that there is none. Each directory in it is a set, with a file NAME.txt
            for each text that it has of its own; what it lacks is that of the set of the same name that comes with the
            server, or else of the default one. `model_notes.toml` in it has advice for families of models, which is
            looked through before the server's own.
        default: the name of the set that is used where none is named.

    Raises:
        PromptError: a file cannot be used; the message names it.
        UnknownPromptsError: there is no set with the default's name.
        OSError: the directory cannot be read.
    """
    sets = dict(_built_in())
    notes = _built_in_notes()
    operator_names: list[str] = []
    if directory is not None:
        for entry in sorted(directory.iterdir()):
            if entry.is_dir() and not entry.name.startswith("."):
                base = sets.get(entry.name, sets[DEFAULT_PROMPTS])
                sets[entry.name] = base.replaced(_read_texts(entry))
                operator_names.append(entry.name)
        notes_file = directory / _NOTES_FILE
        if notes_file.exists():
            notes = (*_parse_notes(notes_file), *notes)
    return PromptLibrary(sets, frozenset(operator_names), notes, default)


def default_prompts() -> PromptSet:
    """Returns the set that is used where none is named, as it comes with the server."""
    return _built_in()[DEFAULT_PROMPTS]


@functools.cache
def _built_in() -> Mapping[str, PromptSet]:
    package = importlib.resources.files(__package__)
    return {
        name: PromptSet.of_texts({text: _read(package / name / f"{text}{_SUFFIX}") for text in PROMPT_NAMES})
        for name in BUILT_IN
    }


@functools.cache
def _built_in_notes() -> tuple[ModelNote, ...]:
    return parse_model_notes(_read(importlib.resources.files(__package__) / _NOTES_FILE))


def _read_texts(directory: Path) -> dict[str, str]:
    texts = {}
    for file in sorted(directory.iterdir()):
        if file.name.startswith("."):
            continue
        name = file.name.removesuffix(_SUFFIX)
        if name not in PROMPT_NAMES or name == file.name:
            near = difflib.get_close_matches(name, PROMPT_NAMES, 1)
            hint = f"; did you mean {near[0]}{_SUFFIX}?" if near else ""
            raise PromptError(f"{file} is no text that there is{hint}")
        text = _read(file)
        try:
            check_text(name, text, default_prompts().text(name))
        except PromptError as error:
            raise PromptError(f"{file} {error}") from None
        texts[name] = text
    return texts


def _parse_notes(file: Path) -> tuple[ModelNote, ...]:
    try:
        return parse_model_notes(_read(file))
    except PromptError as error:
        raise PromptError(f"{file} {error}") from None


def _read(file: Traversable) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise PromptError(f"{file} is not UTF-8 at byte {error.start:,}") from None
