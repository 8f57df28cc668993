"""What a final answer in a reply's text means: words, or what Python makes of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rlm_server.engine.replies.python_source import is_computed, is_expression
from rlm_server.engine.replies.text_finals import FinalKind

if TYPE_CHECKING:
    from rlm_server.engine.replies.text_finals import TextFinal

_ITEM = re.compile(r"\w+\[")


def final_code(final: TextFinal, variables: frozenset[str], provided: frozenset[str]) -> str:
    """Returns the code that gives the value of a final answer in text; empty if that is the text itself.

    Models mix the two functions up: `FINAL(result)` means the variable, if there is one, and `FINAL(len(result))` what
    comes of it.

    Args:
        final: the answer.
        variables: names of the variables that code has made.
        provided: names of those that were there before.
    """
    argument = final.argument
    if final.kind is FinalKind.VALUE:
        if final.is_quoted:
            return ""
        if (name := argument.strip("`")) in variables:
            return f"FINAL_VAR({name!r})"
        return f"FINAL(({argument}))" if is_computed(argument, variables | provided) else ""
    is_quoted_text = final.is_quoted and _ITEM.match(argument) is None
    if argument.isidentifier() or is_quoted_text or not is_expression(argument):
        return f"FINAL_VAR({argument!r})"
    return f"FINAL(({argument}))"
