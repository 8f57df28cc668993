"""Answers that models give, and those that are none: plans and placeholders."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class AnswerForm(enum.Enum):
    """How an answer was given."""

    TEXT = enum.auto()
    """A str in code, or a string literal in a reply's text."""
    WRITTEN = enum.auto()
    """Words in a reply's text."""
    JSON = enum.auto()
    """A value in code that is no str, as JSON; only where a schema is asked for."""


@dataclass(frozen=True)
class Answer:
    """An answer that a model declared final."""

    text: str
    form: AnswerForm = AnswerForm.TEXT


_MAX_PLAN_CHARS = 4000
_PLACEHOLDERS = frozenset(
    {"...", "answer", "answer here", "final answer", "final output", "final result", "my answer", "output"}
    | {"placeholder", "result", "see above", "tbd", "the answer", "the final answer", "todo", "value"}
    | {"your answer", "your answer here", "your final answer", "your final answer here"}
)
# Who speaks of work to come: "I will first search the documents", but not "I will always love you".
_PLAN = re.compile(
    r"""\A[\s*_#>`"'-]*
    (?:(?:okay|ok|sure|alright|all\ right|great|first|now|next|so|to\ (?:answer|find|solve|do|begin)\b[^.\n]{0,100})
       [,.:!]?\s+){0,3}
    (?:(?:here(?:['\u2019]s|\ is)\ )?(?:(?:my|the|a)\ plan|my\ (?:approach|strategy))\b[*_]*(?:\s+(?:is|will\ be)\b|:)
      |(?:plan|approach|strategy)(?:\ of\ action)?[*_]*:
      |step\ (?:1|one)\b\s*[:.)]
      |(?:i|we)\ need\ more\ (?:context|data|information|time|turns)\b
      |(?:i(?:['\u2019]ll|\ will|['\u2019]m\ (?:now\ )?going\ to|\ am\ (?:now\ )?going\ to|\ need\ to|\ plan\ to
            |\ have\ to|\ want\ to|\ would)
         |we(?:['\u2019]ll|\ will|\ need\ to|\ have\ to)
         |let\ me|let['\u2019]?s|let\ us|(?:my|the)\ next\ steps?\ (?:is|are|will\ be)\ to)\s+
       (?:(?:first|now|then|next|also|just|start\ by|begin\ by|proceed\ to|try\ to|need\ to|use\ code\ to)\s+){0,3}
       (?:analy[sz]\w*|break\w*|call\w*|check\w*|chunk\w*|comput\w*|count\w*|delegat\w*|examin\w*|explor\w*
         |extract\w*|find|go\ through|identif\w*|inspect\w*|iterat\w*|load\w*|look\w*|parse|parsing|print\w*
         |process\w*|quer(?:y|ying)|read|reading|review\w*|run|running|scan\w*|search\w*|see\ what|split\w*
         |start\w*|begin\w*|summari[sz]\w*|take\ a\ look|think|try|trying|use\ (?:the|[lr]lm_query|code|python)
         |write\ (?:code|some)|proceed)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def is_no_answer(text: str) -> str:
    """Returns what a text is rather than an answer, `a plan` or `a placeholder`; nothing unless it is clear.

    A false alarm costs a turn: the model is asked to confirm, and its answer is kept.
    """
    stripped = text.strip()
    if stripped.strip("<>[](){}*_`\"' ").casefold().replace("_", " ") in _PLACEHOLDERS:
        return "a placeholder"
    if len(stripped) <= _MAX_PLAN_CHARS and _PLAN.match(stripped):
        return "a plan"
    return ""
