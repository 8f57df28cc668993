"""Errors of calls that are about stored completions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc
from rlm_common.errors import ServiceError, invalid_field

from rlm_server.engine.repl.tools import source_problem

if TYPE_CHECKING:
    from rlm_server.engine.ports.executors import SandboxOpenError
    from rlm_server.journal.completion_rows import ContextGoneError
    from rlm_server.journal.states import State
    from rlm_server.journal.store import StorageUnavailableError

_RETRY_DELAY_SECONDS = 1.0
_REFUSED_BY_SANDBOX = re.compile(
    r"INVALID_ARGUMENT: \w+\.(?P<field>limits\.memory_bytes|inputs\[\d+\])[^:]*: (?P<message>.*)", re.DOTALL
)
"""What a sandbox server says of a request that has too little memory for its context."""


def storage_unavailable(error: StorageUnavailableError | ContextGoneError) -> ServiceError:
    """Returns the error of a call for which the journal must be read or written, and cannot be."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "STORAGE_UNAVAILABLE",
        f"the journal cannot be used at present, so nothing new is taken on; try again later: {error}",
        retry_delay_seconds=_RETRY_DELAY_SECONDS,
    )


def no_sandbox(error: SandboxOpenError, executor_name: str) -> ServiceError:
    """Returns the error of a request for which no sandbox could be had, which may be the fault of the request."""
    problem = source_problem(error)
    if problem is not None:
        index, message = problem
        return invalid_field(f"tools[{index}].python_source", f"failed: {message}")
    refused = _REFUSED_BY_SANDBOX.search(str(error))
    if refused is not None and refused["field"] == "limits.memory_bytes":
        return invalid_field("limits.cell.memory_bytes", refused["message"])
    if refused is not None:
        message = refused["message"].replace("limits.memory_bytes", "limits.cell.memory_bytes")
        return invalid_field("contexts", f"cannot be put into a sandbox: {message}")
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "SANDBOX_UNAVAILABLE",
        f"no sandbox can be had from {executor_name}: {error}",
        metadata={"sandbox": executor_name},
        retry_delay_seconds=_RETRY_DELAY_SECONDS,
    )


def completion_not_found(completion_id: str) -> ServiceError:
    """Returns the error of a call that names a completion which is not there."""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        "COMPLETION_NOT_FOUND",
        f"no completion has the id {completion_id[:200]!r}, or it is not kept any more",
        metadata={"completion_id": completion_id},
    )


def conversation_not_found(conversation_id: str, cause: str = "it may be closed or have expired") -> ServiceError:
    """Returns the error of a call that names a conversation which is not there."""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        "CONVERSATION_NOT_FOUND",
        f"there is no conversation {conversation_id[:100]!r}; {cause}",
        metadata={"conversation_id": conversation_id[:100]},
    )


def conversation_busy(conversation_id: str, completion_id: str, state: State) -> ServiceError:
    """Returns the error of a call for which no completion may run in a conversation."""
    doing, remedy = ("is parked", "resume") if state.name == "PARKED" else ("runs", "wait for its end")
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "CONVERSATION_BUSY",
        f"completion {completion_id} {doing} in the conversation, which has one at a time; {remedy}, or cancel it",
        metadata={"conversation_id": conversation_id, "completion_id": completion_id},
    )


def request_id_reused(completion_id: str) -> ServiceError:
    """Returns the error of a request whose `request_id` another request had."""
    return ServiceError(
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
        f"request_id was used with another request, for completion {completion_id}; give each request its own",
        metadata={"completion_id": completion_id},
    )


def sequence_out_of_range(after_sequence: int, last_sequence: int) -> ServiceError:
    """Returns the error of a call that wants to go on after an event which there is not."""
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        "SEQUENCE_OUT_OF_RANGE",
        f"after_sequence is {after_sequence}, but the last event is {last_sequence}",
        metadata={"last_sequence": str(last_sequence)},
    )


def wrong_state(state: str, remedy: str) -> ServiceError:
    """Returns the error of a call that a completion's state does not allow."""
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "WRONG_STATE",
        f"the completion is {state}: {remedy}",
        metadata={"state": state},
    )
