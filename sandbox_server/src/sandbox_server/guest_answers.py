"""Reads what a guest answers. Code in a sandbox can make its harness say anything, so nothing is taken on trust."""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeVar

import msgspec

_Answer = TypeVar("_Answer")

MAX_ANSWER_BYTES = 64 * 1024 * 1024

MAX_AFTER_CELL_BYTES = 4 * 1024 * 1024
MAX_VARIABLES_BYTES = 4 * 1024 * 1024
"""Most that is told of all variables together. A message to a client has at most 16 MiB."""

_MAX_TEXT_CHARS = 64 * 1024
_MAX_COUNT = 2**62

_Text = Annotated[str, msgspec.Meta(max_length=_MAX_TEXT_CHARS)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_COUNT)]


class GuestFailedError(Exception):
    """The guest could not do what it was asked, or answered what is no answer; the message says what."""


class GuestError(msgspec.Struct):
    """An exception of the code's."""

    type: _Text
    message: _Text
    traceback: _Text = ""


class GuestVariable(msgspec.Struct):
    """A variable of the code's."""

    name: _Text
    type: _Text
    size: Annotated[int, msgspec.Meta(ge=-1, le=_MAX_COUNT)]
    preview: _Text = ""
    preview_truncated: bool = False
    json: Annotated[str, msgspec.Meta(max_length=2 * 1024 * 1024)] | None = None
    json_error: _Text = ""


class CellAnswer(msgspec.Struct):
    """How a cell went, as the guest tells it. It can only claim what it could have done itself."""

    outcome: Literal["OK", "EXCEPTION", "OUT_OF_MEMORY", "OUTPUT_LIMIT", "EXITED"]
    output_dropped_bytes: _Count
    variables: Annotated[list[GuestVariable], msgspec.Meta(max_length=1000)]
    value_repr: _Text | None = None
    error: GuestError | None = None
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    after_cell_json: str = ""
    after_cell_error: _Text = ""
    variables_omitted_count: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class SetUpAnswer(msgspec.Struct):
    """How setting something up went."""

    error: _Text | None = None
    index: _Count = 0
    used_random: bool = False


class _Failure(msgspec.Struct):
    failed: _Text | None = None


_failures = msgspec.json.Decoder(_Failure)
_cells = msgspec.json.Decoder(CellAnswer)
_set_ups = msgspec.json.Decoder(SetUpAnswer)


def read_cell(text: str) -> CellAnswer:
    """Reads the answer to `run`.

    Raises:
        GuestFailedError: the guest failed, or this is no such answer.
    """
    answer = _read(_cells, text)
    _bound(answer)
    if answer.after_cell_json:
        try:
            json.loads(answer.after_cell_json)
        except (ValueError, RecursionError) as error:
            raise GuestFailedError(f"the harness in the sandbox gave what is no JSON: {error}") from None
    return answer


def _bound(answer: CellAnswer) -> None:
    """Cuts what would make the message to the client too large, and says so in its place."""
    size = _size(answer.after_cell_json)
    if size > MAX_AFTER_CELL_BYTES:
        answer.after_cell_json = ""
        answer.after_cell_error = f"it returned {size} bytes of JSON; at most {MAX_AFTER_CELL_BYTES} are taken"
    room = MAX_VARIABLES_BYTES
    for index, one in enumerate(answer.variables):
        room -= _size(one.name) + _size(one.type) + _size(one.preview) + _size(one.json_error)
        if one.json is not None and _size(one.json) > room:
            one.json = None
            one.json_error = f"all that is told of variables together would take over {MAX_VARIABLES_BYTES} bytes"
        if room < 0:
            answer.variables_omitted_count += len(answer.variables) - index
            del answer.variables[index:]
            return
        room -= _size(one.json or "")


def _size(text: str) -> int:
    return len(text.encode())


def read_set_up(text: str) -> SetUpAnswer:
    """Reads the answer to anything else.

    Raises:
        GuestFailedError: the guest failed, or this is no such answer.
    """
    return _read(_set_ups, text)


def _read(decoder: msgspec.json.Decoder[_Answer], text: str) -> _Answer:
    if len(text) > MAX_ANSWER_BYTES:
        raise GuestFailedError(f"the harness in the sandbox answered with {len(text)} characters, which is too much")
    try:
        failure = _failures.decode(text)
        if failure.failed is not None:
            raise GuestFailedError(failure.failed)
        return decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise GuestFailedError(f"the harness in the sandbox answered what is no result: {error}") from None
