"""The best answer of a node that a limit has stopped: by one last call, or from what its model has said."""

from __future__ import annotations

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.answers.answer import Answer, AnswerForm
from rlm_server.engine.replies.fences import split, without_thinking
from rlm_server.engine.replies.parsing import FinalKind, parse_reply
from rlm_server.engine.replies.python_source import is_computed
from rlm_server.engine.text import clean

LIMITS_WITH_A_LAST_ANSWER = frozenset(
    {
        event_pb2.FINISH_REASON_MAX_ITERATIONS,
        event_pb2.FINISH_REASON_MAX_SUBCALLS,
        event_pb2.FINISH_REASON_MAX_ERRORS,
    }
)
"""Limits after which there may be tokens, money and time for one more call."""


def read_last_answer(text: str) -> Answer | None:
    """Returns the answer in a reply to the last call, or None if there is none.

    The model was told to write the answer itself. Code will not run any more, so a reply of code holds no answer, nor
    does one that names a variable, or is an f-string.
    """
    reply = parse_reply(text)
    if reply.final is not None:
        is_code = not reply.final.is_quoted and is_computed(reply.final.argument, frozenset())
        if reply.final.kind is FinalKind.VARIABLE or is_code:
            return None
        form = AnswerForm.TEXT if reply.final.is_quoted else AnswerForm.WRITTEN
        return Answer(clean(reply.final.argument), form)
    if reply.is_empty or reply.blocks:
        return None
    blocks, prose = split(text)
    # An answer may be fenced, as JSON is; without thinking there is nothing else to take away.
    written = text if blocks else prose
    return Answer(clean(written.strip()), AnswerForm.WRITTEN)


def said_beside_code(text: str) -> str:
    """Returns what a reply says besides its code and its thinking; may be empty."""
    said = split(text)[1] if parse_reply(text).blocks else without_thinking(text)
    return clean(said.strip())
