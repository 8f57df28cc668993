"""What the two interfaces of OpenAI's have in common: a body for a request, and a reader for its reply.

`chat_completions` and `responses` each have a `body` and a `Reader`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import pydantic_core

from rlm_server.engine.ports.models import ModelErrorKind, TextPart, TokenCounts
from rlm_server.models.openai_errors import EndpointError, model_error
from rlm_server.models.sse import EventDecoder

if TYPE_CHECKING:
    from collections.abc import Mapping

_END_OF_STREAM = b"[DONE]"


class ChunkReader(Protocol):
    """Reads what one interface sends.

    Attributes:
        stop_reason: why the reply ended, as `stop` or `length`; empty as long as that has not been told.
        tokens: the usage, once it has been told.
        is_complete: the end of the reply has come.
    """

    stop_reason: str
    tokens: TokenCounts | None
    is_complete: bool

    def read_chunk(self, chunk: Mapping[str, Any]) -> list[TextPart]:
        """Returns the text in an event of a stream.

        Raises:
            EndpointError: it tells of a failure.
        """

    def read_whole(self, reply: Mapping[str, Any]) -> list[TextPart]:
        """Returns the text of a reply that came as a whole.

        Raises:
            EndpointError: it tells of a failure.
        """


class ReplyReader:
    """Reads one reply, streamed or whole. Text that arrives together is passed on together.

    Args:
        model: what to call the model in errors.
        chunks: reads what the interface sends.
    """

    def __init__(self, model: str, chunks: ChunkReader) -> None:
        self._model = model
        self._chunks = chunks
        self._decoder = EventDecoder()
        self._failure: EndpointError | None = None
        self.has_text = False

    def feed(self, received: bytes) -> list[TextPart]:
        """Takes the next bytes of a stream; returns the text that they complete."""
        return self._read(self._decoder.feed(received))

    def check(self) -> None:
        """Must be called once the text that `feed` returned is passed on, which may have cost something.

        Raises:
            EndpointError: the endpoint has told of a failure after it.
        """
        if self._failure is not None:
            raise self._failure

    def finish(self) -> list[TextPart]:
        """Returns the text of an event that lacks its last empty line at the end of the stream.

        Raises:
            EndpointError: the reply is not complete.
        """
        parts = self._read(self._decoder.finish())
        self.check()
        if not self._chunks.is_complete:
            raise model_error(
                ModelErrorKind.UNREACHABLE, self._model, "the endpoint ended the stream in the middle of its reply"
            )
        return parts

    def whole(self, body: bytes) -> list[TextPart]:
        """Returns the text of a reply that was not streamed."""
        return self._note(self._chunks.read_whole(self._object(body)))

    def _read(self, events: list[bytes]) -> list[TextPart]:
        parts: list[TextPart] = []
        for data in events:
            if data == _END_OF_STREAM:
                self._chunks.is_complete = True
                continue
            try:
                read = self._chunks.read_chunk(self._object(data))
            except EndpointError as error:
                self._failure = error
                break
            for part in read:
                if parts and parts[-1].reasoning == part.reasoning:
                    parts[-1] = TextPart(parts[-1].text + part.text, part.reasoning)
                else:
                    parts.append(part)
        return self._note(parts)

    def _note(self, parts: list[TextPart]) -> list[TextPart]:
        self.has_text = self.has_text or any(not part.reasoning for part in parts)
        return parts

    def _object(self, data: bytes) -> dict[str, Any]:
        value = _json(data)
        if not isinstance(value, dict):
            raise model_error(
                ModelErrorKind.BAD_REQUEST, self._model, "the endpoint's reply has an event that is no JSON object"
            )
        return value


def _json(data: bytes) -> object:
    """Returns what JSON says; None if it is none."""
    try:
        return pydantic_core.from_json(data)
    except ValueError:
        pass
    try:
        return json.loads(data)  # which is slower, and takes the halves of characters that some endpoints send
    except ValueError:
        return None


def text_part(text: object, *, reasoning: bool = False) -> list[TextPart]:
    """Returns a text as a part, or nothing if it is none or empty."""
    return [TextPart(text, reasoning)] if isinstance(text, str) and text else []


def table(value: object) -> Mapping[str, Any]:
    """Returns a JSON object, or an empty one if it is something else."""
    return value if isinstance(value, dict) else {}


def tokens(usage: object, *, input_name: str, output_name: str) -> TokenCounts | None:
    """Returns what a `usage` object says, or None if it does not say how many tokens there were.

    Args:
        usage: as the endpoint sent it.
        input_name: the field that counts the tokens sent, without `_tokens`; `_tokens_details` has the details.
        output_name: the field that counts the tokens made, likewise.
    """
    counts = table(usage)
    sent, made = counts.get(f"{input_name}_tokens"), counts.get(f"{output_name}_tokens")
    if not isinstance(sent, int) or not isinstance(made, int):
        return None
    cost = counts.get("cost")
    return TokenCounts(
        input_tokens=max(0, sent),
        output_tokens=max(0, made),
        cached_input_tokens=min(_detail(counts, f"{input_name}_tokens_details", "cached_tokens"), max(0, sent)),
        reasoning_tokens=_detail(counts, f"{output_name}_tokens_details", "reasoning_tokens"),
        # Some routers of models tell the cost in US dollars.
        cost_microdollars=cost * 1e6 if isinstance(cost, int | float) and 0 <= cost < 1e9 else None,
    )


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    value = table(usage.get(group)).get(name)
    return max(0, value) if isinstance(value, int) else 0
