"""The texts that models are given. They are files beside this one, a directory for each version."""

from __future__ import annotations

import functools
import importlib.resources
import string
from dataclasses import dataclass, fields
from typing import Self

DEFAULT_VERSION = "v1"
"""The version that is used where none is named."""


@dataclass(frozen=True)
class PromptSet:
    """The texts of one version, each a template with `$placeholders`."""

    system: string.Template
    task: string.Template
    context_part: string.Template
    child_query: string.Template
    turn: string.Template
    no_code: string.Template
    empty_reply: string.Template
    final_beside_code: string.Template
    reply_truncated: string.Template
    variables_lost: string.Template
    variables_restored: string.Template
    answer_not_taken: string.Template

    @classmethod
    def load(cls, version: str) -> Self:
        """Reads the texts of a version.

        Raises:
            FileNotFoundError: there is no such version, or it lacks a text.
        """
        directory = importlib.resources.files(__name__) / version
        return cls(
            **{
                field.name: string.Template((directory / f"{field.name}.txt").read_text(encoding="utf-8").rstrip("\n"))
                for field in fields(cls)
            }
        )


@functools.cache
def default_prompts() -> PromptSet:
    """Returns the texts of the default version."""
    return PromptSet.load(DEFAULT_VERSION)
