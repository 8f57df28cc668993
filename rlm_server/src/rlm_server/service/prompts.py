"""Which texts a request's models are given, and what `ListPrompts` tells of them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_server.engine.prompts import (
    PROMPT_NAMES,
    PromptError,
    UnknownPromptsError,
    check_text,
    default_prompts,
    placeholders_of,
)

if TYPE_CHECKING:
    from rlm_common.errors import Violations

    from rlm_server.engine.prompts import PromptLibrary, PromptSet

_MAX_TEXT_CHARS = 100_000


def check_prompts(prompts: pb.Prompts, library: PromptLibrary, violations: Violations) -> PromptSet:
    """Returns the texts that a request wants; what is wrong goes to `violations`."""
    try:
        chosen = library.get(prompts.name)
    except UnknownPromptsError as error:
        violations.add("prompts.name", str(error))
        chosen = library.get("")
    good: dict[str, str] = {}
    for name, text in prompts.overrides.items():
        problem = _problem_with(name, text)
        if problem:
            violations.add(f"prompts.overrides[{name[:50]}]", problem)
        else:
            good[name] = text
    return chosen.replaced(good)


def describe_prompts(library: PromptLibrary) -> pb.ListPromptsResponse:
    """Returns the answer to `ListPrompts`."""
    return pb.ListPromptsResponse(
        prompt_sets=[
            pb.PromptSet(
                name=name,
                from_operator=name in library.operator_names,
                prompts=[_describe(text_name, texts) for text_name in PROMPT_NAMES],
            )
            for name, texts in library.sets.items()
        ],
        default_name=library.default,
        model_notes=[
            pb.ModelNote(family=note.family, patterns=note.patterns, text=note.text) for note in library.model_notes
        ],
    )


def _describe(name: str, texts: PromptSet) -> pb.Prompt:
    placeholders = placeholders_of(name, default_prompts().text(name))
    return pb.Prompt(
        name=name,
        text=texts.text(name),
        required_placeholders=sorted(placeholders.required),
        optional_placeholders=sorted(placeholders.optional),
    )


def _problem_with(name: str, text: str) -> str:
    if name not in PROMPT_NAMES:
        near = difflib.get_close_matches(name, PROMPT_NAMES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(PROMPT_NAMES)}"
        return f"there is no text {name[:50]!r}{hint}"
    if len(text) > _MAX_TEXT_CHARS:
        return f"has {len(text):,} characters; at most {_MAX_TEXT_CHARS:,} are allowed"
    try:
        check_text(name, text, default_prompts().text(name))
    except PromptError as error:
        return str(error)
    return ""
