"""What is done in a guest before its first cell: host functions, prelude, inputs."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_server.guest_answers import GuestFailedError, read_set_up
from sandbox_server.model import MIB, Input, SandboxSpec, ValueFormat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox_server.wasm.guest import Guest

_PART_BYTES = MIB


class SandboxOpenError(Exception):
    """A sandbox could not be made as it was asked for.

    Args:
        field: the part of the request that is at fault, as `prelude.source` or `inputs[2]`; empty if it is a limit.
        message: what is wrong with it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class ShortOfMemoryError(SandboxOpenError):
    """A sandbox could not be made because the machine has no memory for it; the message says more."""

    def __init__(self, message: str) -> None:
        super().__init__("", message)


def begin(guest: Guest, spec: SandboxSpec) -> bool:
    """Starts the interpreter, declares the host functions and runs the prelude's source.

    Returns:
        Whether any other guest would be in the same state now, but for that of `random`: the source has asked the host
        for nothing, and drawn nothing from `random`.

    Raises:
        SandboxOpenError: a schema is none, or the source fails.
        GuestEndedError: the guest was ended.
        GuestFailedError: it could not do what it was asked.
    """
    guest.load("")  # the interpreter reads its arguments, its environment and a seed for `random` at the first call
    asked = guest.host_call_count
    used_random = False
    if spec.host_functions:
        functions = [{"name": one.name, "doc": one.doc, "schema": one.schema} for one in spec.host_functions]
        answer = read_set_up(ask(guest, do="declare", functions=functions))
        if answer.error is not None:
            path = f"host_functions[{answer.index}].parameters_schema"
            raise SandboxOpenError(path, f"is not a JSON Schema that can be used: {answer.error}")
    if spec.prelude or spec.prelude_setup:
        load_text(guest, spec.prelude)
        answer = read_set_up(ask(guest, do="prelude"))
        if answer.error is not None:
            raise SandboxOpenError("prelude.source", f"it failed with {answer.error}")
        used_random = answer.used_random
    return guest.host_call_count == asked and not used_random


def set_up(guest: Guest, spec: SandboxSpec) -> None:
    """Runs the prelude's setup, and provides what the prelude offers.

    Raises:
        SandboxOpenError: it fails.
        GuestEndedError: the guest was ended.
        GuestFailedError: it could not do what it was asked.
    """
    if not (spec.prelude or spec.prelude_setup):
        return
    load_text(guest, spec.prelude_setup)
    answer = read_set_up(ask(guest, do="set_up"))
    if answer.error is not None:
        field = "setup" if spec.prelude_setup else "source"
        raise SandboxOpenError(f"prelude.{field}", f"it failed with {answer.error}")


def load_inputs(guest: Guest, inputs: Sequence[Input]) -> None:
    """Sets variables.

    Raises:
        SandboxOpenError: an input is not what it says.
        GuestEndedError: the guest was ended.
    """
    for index, one in enumerate(inputs):
        try:
            for part in _text_parts(one):
                guest.load(part)
            read_set_up(ask(guest, do="set_input", name=one.name, format=one.format.value))
        except UnicodeDecodeError as error:
            message = f"is not valid UTF-8 at byte {error.start}; send it as bytes, or mend it"
            raise SandboxOpenError(f"inputs[{index}]", message) from None
        except GuestFailedError as error:
            raise SandboxOpenError(f"inputs[{index}]", f"cannot be loaded: {_cause(error)}") from None


def _cause(error: GuestFailedError) -> str:
    return "it does not fit into limits.memory_bytes; raise that" if "MemoryError" in str(error) else str(error)


def load_text(guest: Guest, text: str) -> None:
    """Hands the guest what its next request is about."""
    for start in range(0, len(text), _PART_BYTES):
        guest.load(text[start : start + _PART_BYTES])


def ask(guest: Guest, **request: Any) -> str:
    """Has the guest handle a request; returns its answer."""
    if guest.wants_seed:
        guest.wants_seed = False
        request["reseed"] = True
    return guest.handle(json.dumps(request))


def _text_parts(one: Input) -> Iterator[str]:
    """Yields an input as the text that the guest is loaded with; bytes travel as the characters of Latin-1."""
    decoder = codecs.getincrementaldecoder("latin-1" if one.format is ValueFormat.BYTES else "utf-8")()
    position = 0
    for part in _byte_parts(one):
        try:
            text = decoder.decode(part)
        except UnicodeDecodeError as error:
            error.start += position
            raise
        position += len(part)
        if text:
            yield text
    decoder.decode(b"", final=True)


def _byte_parts(one: Input) -> Iterator[bytes]:
    if isinstance(one.source, bytes):
        for start in range(0, len(one.source), _PART_BYTES):
            yield one.source[start : start + _PART_BYTES]
        return
    with Path(one.source.path).open("rb") as file:
        while part := file.read(_PART_BYTES):
            yield part
