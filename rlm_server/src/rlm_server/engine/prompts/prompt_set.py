"""The texts that models are given, and what they must have a place for."""

from __future__ import annotations

import dataclasses
import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONAL_PLACEHOLDERS = {
    "system": frozenset(
        {
            *("rlm_query_note", "max_output_chars", "subcall_chars", "budget", "model_note"),
            *("models_note", "images_note", "packages_note", "files_note"),
        }
    ),
    "files_note": frozenset({"patterns", "max_size"}),
    "budget": frozenset({"max_iterations", "max_subcalls", "wall_time"}),
    "task": frozenset[str](),
    "context_part": frozenset({"type", "size", "outline"}),
    "direct_mismatch": frozenset({"cannot_answer"}),
    "turn": frozenset({"iteration", "max_iterations", "budget"}),
    "no_code": frozenset({"replies_left"}),
    "empty_reply": frozenset({"replies_left"}),
    "final_beside_code": frozenset({"function"}),
    "summarize": frozenset({"max_words"}),
    "compacted": frozenset({"message_count"}),
    "answer_doubtful": frozenset({"kind"}),
    "answer_mismatch": frozenset({"tries_left"}),
    "last_answer": frozenset({"limit"}),
    "repeated_turn": frozenset({"turns_left"}),
    "stale_turns": frozenset({"turns"}),
}
"""What a text may leave out. Without its other placeholders something that was asked for would be lost in silence."""

_BLANK_LINES = re.compile(r"\n{3,}")


class PromptError(Exception):
    """A text that cannot be used; the message says why, and the remedy."""


@dataclass(frozen=True)
class PromptSet:
    """The texts of one set, each a template with `$placeholders`.

    Args:
        system: the system message of a node with a REPL.
        budget: its part on what may be used.
        models_note: its part on models that code can name, where there are several.
        images_note: its part on pictures, where there are some.
        packages_note: its part on packages beside the standard library, where there are some.
        files_note: its part on files that the client is given, where it asks for some.
        rlm_query_recursive: its part on `rlm_query` where that is a child RLM.
        rlm_query_plain: the same where that is a plain model call.
        task: the first user message, without the line on the turn.
        context_part: a line of it on one variable.
        child_query: what a child RLM is asked whose whole task is its context.
        turn: the line on the turn, at the end of each user message.
        direct: the message of a direct answer, without a REPL.
        direct_answer_format: its part on the JSON Schema that the answer must match.
        direct_mismatch: what a model is told whose direct answer does not match it.
        no_code: what a model is told whose reply had neither code nor an answer.
        empty_reply: the same for an empty reply.
        final_beside_code: a FINAL in the text of a reply with code was not taken.
        output_invented: a reply went on after its code with output that the model made up.
        reply_truncated: the reply was cut by the limit on its length.
        thinking_cut: the same for a reply that was all thinking.
        reply_filtered: the reply was cut by the endpoint's content filter.
        variables_lost: the sandbox was started afresh.
        variables_restored: the block was killed and had no effect.
        answer_not_taken: why an answer was not taken.
        summarize: the node's messages are to be summed up, to make room in the model's window.
        compacted: what then stands in their place, after the question.
        answer_format: the system message's part on the JSON Schema that the answer must match.
        answer_mismatch: an answer was not taken that does not match it.
        look_first: an answer was not taken that came before any look at the context.
        answer_doubtful: the same for what reads like a plan or a placeholder.
        last_answer: a limit is reached, and the model is asked for its best answer.
        repeated_turn: code ran that had run before, and came to the same.
        stale_turns: several turns showed nothing but what was shown before.
        names_restored: code had rebound names of the REPL.
        inputs_changed: code has changed inputs in place.
        follow_up: what comes before the question in a completion that goes on with a conversation.
        variables_kept: its part on variables, where none were lost.
    """

    system: string.Template
    budget: string.Template
    models_note: string.Template
    images_note: string.Template
    packages_note: string.Template
    files_note: string.Template
    rlm_query_recursive: string.Template
    rlm_query_plain: string.Template
    task: string.Template
    context_part: string.Template
    child_query: string.Template
    turn: string.Template
    direct: string.Template
    direct_answer_format: string.Template
    direct_mismatch: string.Template
    no_code: string.Template
    empty_reply: string.Template
    final_beside_code: string.Template
    output_invented: string.Template
    reply_truncated: string.Template
    thinking_cut: string.Template
    reply_filtered: string.Template
    variables_lost: string.Template
    variables_restored: string.Template
    answer_not_taken: string.Template
    summarize: string.Template
    compacted: string.Template
    answer_format: string.Template
    answer_mismatch: string.Template
    look_first: string.Template
    answer_doubtful: string.Template
    last_answer: string.Template
    repeated_turn: string.Template
    stale_turns: string.Template
    names_restored: string.Template
    inputs_changed: string.Template
    follow_up: string.Template
    variables_kept: string.Template

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> Self:
        """Makes a set of texts by their names, which must all be there."""
        return cls(**{name: string.Template(texts[name]) for name in PROMPT_NAMES})

    def text(self, name: str) -> str:
        """Returns one of the texts, with its placeholders."""
        template: string.Template = getattr(self, name)
        return template.template

    def replaced(self, texts: Mapping[str, str]) -> Self:
        """Returns the set with some of its texts replaced, by their names."""
        return dataclasses.replace(self, **{name: string.Template(text) for name, text in texts.items()})


PROMPT_NAMES = tuple(field.name for field in dataclasses.fields(PromptSet))
"""The names of a set's texts."""


@dataclass(frozen=True)
class Placeholders:
    """The placeholders that a text can have.

    Args:
        required: those it must have.
        optional: those it may leave out.
    """

    required: frozenset[str]
    optional: frozenset[str]


def placeholders_of(name: str, original: str) -> Placeholders:
    """Returns the placeholders that a replacement for a text can have: those of the original.

    Args:
        name: the text's name.
        original: the text of the default set.
    """
    found = frozenset(string.Template(original).get_identifiers())
    optional = _OPTIONAL_PLACEHOLDERS.get(name, frozenset())
    return Placeholders(found - optional, found & optional)


def check_text(name: str, text: str, original: str) -> None:
    """Checks a text that is to take the place of another.

    Args:
        name: the text's name.
        text: the replacement.
        original: the text of the default set.

    Raises:
        PromptError: it is empty, lacks a placeholder, has one that nothing fills, or a `$` that is none.
    """
    if not text.strip():
        raise PromptError("is empty")
    template = string.Template(text)
    if not template.is_valid():
        raise PromptError("has a $ that begins no placeholder; write $$ for a dollar sign")
    known = placeholders_of(name, original)
    found = set(template.get_identifiers())
    if unknown := found - known.required - known.optional:
        listed = _listed(known.required | known.optional)
        raise PromptError(
            f"has {_listed(unknown)}, which nothing fills; there are: {listed}; write $$ for a dollar sign"
        )
    if missing := known.required - found:
        raise PromptError(f"lacks {_listed(missing)}; put in where it is to stand")


def fill(template: string.Template, **values: object) -> str:
    """Returns a text with its placeholders filled. A line that holds but a placeholder goes where that has nothing."""
    text = template.template
    empty = [name for name, value in values.items() if value == ""]
    if empty:
        text = re.sub(rf"^\$(?:{'|'.join(empty)})(?:\n|\Z)", "", text, flags=re.MULTILINE)
        text = _BLANK_LINES.sub("\n\n", text).rstrip("\n")
    return string.Template(text).substitute(values)


def _listed(names: frozenset[str] | set[str]) -> str:
    return ", ".join(f"${name}" for name in sorted(names)) or "none"
