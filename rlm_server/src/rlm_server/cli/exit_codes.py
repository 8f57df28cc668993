"""Exit codes of the `rlm` command.

0    the query was answered
1    the completion ended at a limit, with a partial answer or none; `doctor` found something essential amiss
2    the command line, the context or the request is wrong
3    the server, the sandbox or the model failed, or cannot be reached
130  cancelled with Ctrl-C
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import typer
from rlm_client import (
    AlreadyExistsError,
    ContextError,
    FinishReason,
    InvalidRequestError,
    NotFoundError,
    SequenceOutOfRangeError,
    StatusError,
    UnavailableError,
    WrongStateError,
)

if TYPE_CHECKING:
    from rlm_client import Completion, RlmError

ANSWERED = 0
UNFINISHED = 1
BAD_INPUT = 2
FAILED = 3
CANCELLED = 130

_FAILURES = (FinishReason.MODEL_ERROR, FinishReason.SANDBOX_ERROR, FinishReason.INTERNAL_ERROR)
_OF_THE_REQUEST = (
    AlreadyExistsError,
    ContextError,
    InvalidRequestError,
    NotFoundError,
    SequenceOutOfRangeError,
    WrongStateError,
)


def of_completion(completion: Completion) -> int:
    """Returns the exit code for what a completion came to."""
    if completion.finish_reason is FinishReason.ANSWERED:
        return ANSWERED
    if completion.finish_reason is FinishReason.CANCELLED:
        return CANCELLED
    return FAILED if completion.finish_reason in _FAILURES else UNFINISHED


def of_error(error: RlmError) -> int:
    """Returns the exit code for an error of the client."""
    return BAD_INPUT if isinstance(error, _OF_THE_REQUEST) else FAILED


def message_of(error: RlmError, target: str) -> str:
    """Returns what to tell people of an error of the client.

    Args:
        error: what happened.
        target: the server that was called.
    """
    if isinstance(error, ContextError) and error.byte_offset is not None:
        return f"{error}. Name its character set, as with --charset iso-8859-1, or convert the file."
    if isinstance(error, InvalidRequestError) and error.field_violations:
        return "\n".join(f"{violation.field}: {violation.description}" for violation in error.field_violations)
    if isinstance(error, UnavailableError) and not error.reason:
        return (
            f"no server answers at {target} ({error.message}). Is `rlm serve` running there? "
            "Without --server this command starts one itself."
        )
    return error.message if isinstance(error, StatusError) else str(error)


def fail(message: str, code: int) -> NoReturn:
    """Says on stderr what is wrong, and exits."""
    typer.echo(f"rlm: {message}", err=True)
    raise typer.Exit(code)
