"""Responses: OpenAI's newer interface, used without its state on the endpoint's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlm_server.engine.ports.models import ModelErrorKind
from rlm_server.models.content import responses_content
from rlm_server.models.interface import table, text_part, tokens
from rlm_server.models.openai_errors import from_stream, model_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_server.engine.ports.models import Message, Sampling, TextPart, TokenCounts

_STOP_REASONS = {"max_output_tokens": "length"}
"""What chat completions call the reasons of an incomplete response."""

_TEXT_EVENTS = ("response.output_text.delta", "response.refusal.delta")
_REASONING_EVENTS = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")


PATH = "/responses"
"""Where it is, below the base URL."""


def body(model: str, sampling: Sampling, *, stream: bool) -> dict[str, Any]:
    """Returns the body of a request, without its messages."""
    options = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_output_tokens": sampling.max_output_tokens,
        "reasoning": {"effort": sampling.reasoning_effort} if sampling.reasoning_effort else None,
    }
    # The endpoint need not keep what is sent anew in each call.
    return {"model": model, "stream": stream, "store": False} | {
        name: value for name, value in options.items() if value is not None
    }


def messages_field(messages: Sequence[Message]) -> dict[str, Any]:
    """Returns the field of the body that has the messages."""
    return {"input": [{"role": message.role, "content": responses_content(message)} for message in messages]}


class Reader:
    """Reads replies, as `interface.ChunkReader`.

    Args:
        model: what to call the model in errors.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.stop_reason = ""
        self.tokens: TokenCounts | None = None
        self.is_complete = False

    def read_chunk(self, chunk: Mapping[str, Any]) -> list[TextPart]:
        """Returns the text in an event."""
        kind = chunk.get("type")
        if kind in _TEXT_EVENTS:
            return text_part(chunk.get("delta"))
        if kind in _REASONING_EVENTS:
            return text_part(chunk.get("delta"), reasoning=True)
        if kind == "error" or "error" in chunk:
            raise from_stream(chunk.get("error") or chunk, self._model)
        if kind in _LAST_EVENTS:
            self._end(table(chunk.get("response")))
        return []

    def read_whole(self, reply: Mapping[str, Any]) -> list[TextPart]:
        """Returns the text of a whole response."""
        self._end(reply)
        parts = []
        output = reply.get("output")
        if not isinstance(output, list):
            raise model_error(ModelErrorKind.BAD_REQUEST, self._model, "the endpoint's reply has no output")
        for item in output:
            reasoning = table(item).get("type") == "reasoning"
            for field in ("summary", "content"):
                pieces = table(item).get(field)
                for piece in pieces if isinstance(pieces, list) else []:
                    text = table(piece).get("text") or table(piece).get("refusal")
                    parts += text_part(text, reasoning=reasoning)
        return parts

    def _end(self, response: Mapping[str, Any]) -> None:
        if response.get("error"):
            raise from_stream(response["error"], self._model)
        self.tokens = tokens(response.get("usage"), input_name="input", output_name="output")
        reason = table(response.get("incomplete_details")).get("reason")
        self.stop_reason = _STOP_REASONS.get(reason, reason) if isinstance(reason, str) else "stop"
        self.is_complete = True
