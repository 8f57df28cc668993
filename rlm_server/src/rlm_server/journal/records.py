"""What is recorded of a model's reply and of a block of code, as JSON.

Records outlive the program that wrote them: a field that is added to one of these types needs a default.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlm_server.engine.limits import CellBounds
from rlm_server.engine.ports.host_calls import HostCall, HostCallError
from rlm_server.engine.ports.models import CallRepeated, ModelError, ModelErrorKind, ReplyEnd, TextPart, TokenCounts
from rlm_server.engine.ports.sessions import CellResult, FileContent, VariablesState

if TYPE_CHECKING:
    from collections.abc import Iterable

_COMPRESSED_FROM_BYTES = 4096
_JSON, _ZLIB = b"j", b"z"


@dataclass
class ModelRecord:
    """How a call to a model went: what it said, or why it failed."""

    parts: list[TextPart | CallRepeated]
    end: ReplyEnd | None = None
    error: ModelError | None = None

    def encode(self) -> bytes:
        """Returns the bytes of the record."""
        error = self.error
        return pack(
            {
                "parts": [[type(part) is CallRepeated, vars(part)] for part in _joined(self.parts)],
                "end": None if self.end is None else vars(self.end) | {"tokens": _vars(self.end.tokens)},
                "error": None if error is None else [error.kind.value, error.message],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> ModelRecord:
        """Returns what `encode` made bytes of."""
        value = unpack(data)
        end = value["end"]
        if end is not None:
            tokens = end.pop("tokens")
            end = _make(ReplyEnd, end | {"tokens": tokens and _make(TokenCounts, tokens)})
        error = value["error"] and ModelError(ModelErrorKind(value["error"][0]), value["error"][1])
        parts: list[TextPart | CallRepeated] = []
        for is_repeated, part in value["parts"]:
            if is_repeated:
                parts.append(_make(CallRepeated, part | {"kind": ModelErrorKind(part["kind"])}))
            else:
                parts.append(_make(TextPart, part))
        return cls(parts, end, error)


@dataclass
class CallRecord:
    """A host call of a block, and its answer.

    Args:
        call: what the code asked.
        asked_after: how many answers the block had been given when it asked.
        given: the position of the answer among those of the block, from 0; None if it was never given.
        value: the answer.
        error: the answer where it is an exception.
    """

    call: HostCall
    asked_after: int
    given: int | None = None
    value: object = None
    error: HostCallError | None = None

    def answer(self) -> object:
        """Gives the answer once more.

        Raises:
            HostCallError: that is the answer.
        """
        if self.error is not None:
            raise HostCallError(self.error.type_name, self.error.message)
        return self.value

    def matches(self, call: HostCall) -> bool:
        """Tells whether code asks the same again."""
        mine = self.call
        return (mine.function, mine.args, dict(mine.kwargs)) == (call.function, call.args, dict(call.kwargs))


@dataclass
class CellRecord:
    """A block of code that has run: what it was given, its result, what it wrote, the host calls that it made."""

    code: str
    bounds: CellBounds
    result: CellResult
    output: list[tuple[int, str]] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)

    def encode(self) -> bytes:
        """Returns the bytes of the record."""
        result = vars(self.result) | {"variables": self.result.variables.name}
        calls = [
            {
                "function": one.call.function,
                "args": one.call.args,
                "kwargs": dict(one.call.kwargs),
                "asked_after": one.asked_after,
                "given": one.given,
                "value": one.value,
                "error": None if one.error is None else [one.error.type_name, one.error.message],
            }
            for one in self.calls
        ]
        return pack(
            {
                "code": self.code,
                "bounds": vars(self.bounds),
                "result": result,
                "output": self.output,
                "calls": calls,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> CellRecord:
        """Returns what `encode` made bytes of."""
        value = unpack(data)
        result = value["result"] | {"variables": VariablesState[value["result"]["variables"]]}
        calls = [
            CallRecord(
                HostCall(one["function"], one["args"], one["kwargs"]),
                one["asked_after"],
                one["given"],
                one["value"],
                one["error"] and HostCallError(*one["error"]),
            )
            for one in value["calls"]
        ]
        output = [(stream, text) for stream, text in value["output"]]
        return cls(value["code"], _make(CellBounds, value["bounds"]), _make(CellResult, result), output, calls)


def encode_file(content: FileContent) -> bytes:
    """Returns the bytes of the record of a file."""
    return content.problem.encode(errors="replace") + b"\0" + content.data


def decode_file(data: bytes) -> FileContent:
    """Returns what `encode_file` made bytes of."""
    problem, _, rest = data.partition(b"\0")
    return FileContent(rest, problem.decode())


def text_by_stream(output: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Returns what a block wrote to each stream."""
    texts: dict[int, list[str]] = {}
    for stream, text in output:
        texts.setdefault(stream, []).append(text)
    return {stream: "".join(parts) for stream, parts in texts.items()}


def _joined(parts: Iterable[TextPart | CallRepeated]) -> list[TextPart | CallRepeated]:
    """Returns the parts, with texts that follow each other in one."""
    joined: list[TextPart | CallRepeated] = []
    for reasoning, group in itertools.groupby(parts, lambda part: isinstance(part, TextPart) and part.reasoning):
        for is_text, same in itertools.groupby(group, lambda part: isinstance(part, TextPart)):
            if is_text:
                joined.append(TextPart("".join(part.text for part in same if isinstance(part, TextPart)), reasoning))
            else:
                joined.extend(same)
    return joined


def _vars(value: object) -> dict[str, Any] | None:
    """Returns the fields of a dataclass; not a copy of what is in them, as `dataclasses.asdict` makes."""
    return None if value is None else vars(value)


def _make(kind: Any, values: dict[str, Any]) -> Any:
    """Makes a dataclass of what is known of its fields; a later version may have recorded more."""
    known = {one.name for one in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def pack(value: object) -> bytes:
    """Returns the bytes of a record."""
    data = json.dumps(value, separators=(",", ":")).encode()
    if len(data) < _COMPRESSED_FROM_BYTES:
        return _JSON + data
    return _ZLIB + zlib.compress(data, 1)


def unpack(data: bytes) -> Any:
    """Returns what `pack` made bytes of."""
    return json.loads(data[1:] if data[:1] == _JSON else zlib.decompress(data[1:]))
