"""Chat completions: the interface that nearly every endpoint has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlm_server.engine.ports.models import ModelErrorKind
from rlm_server.models.content import chat_content
from rlm_server.models.interface import table, text_part, tokens
from rlm_server.models.openai_errors import from_stream, model_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_server.engine.ports.models import Message, Sampling, TextPart, TokenCounts


PATH = "/chat/completions"
"""Where it is, below the base URL."""


def body(model: str, sampling: Sampling, *, stream: bool) -> dict[str, Any]:
    """Returns the body of a request, without its messages."""
    options = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_completion_tokens": sampling.max_output_tokens,
        "reasoning_effort": sampling.reasoning_effort,
        "seed": sampling.seed,
        "stream_options": {"include_usage": True} if stream else None,
    }
    return {"model": model, "stream": stream} | {name: value for name, value in options.items() if value is not None}


def messages_field(messages: Sequence[Message]) -> dict[str, Any]:
    """Returns the field of the body that has the messages."""
    return {"messages": [{"role": message.role, "content": chat_content(message)} for message in messages]}


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
        """Returns the text in a chunk."""
        return self._read(chunk, "delta")

    def read_whole(self, reply: Mapping[str, Any]) -> list[TextPart]:
        """Returns the text of a whole reply."""
        parts = self._read(reply, "message")
        if not reply.get("choices"):
            raise model_error(ModelErrorKind.BAD_REQUEST, self._model, "the endpoint's reply has no choices")
        self.is_complete = True
        return parts

    def _read(self, chunk: Mapping[str, Any], name: str) -> list[TextPart]:
        if chunk.get("error") or chunk.get("object") == "error":
            raise from_stream(chunk.get("error") or chunk, self._model)
        if usage := chunk.get("usage"):
            self.tokens = tokens(usage, input_name="prompt", output_name="completion") or self.tokens
        choices = chunk.get("choices")
        choice = table(choices[0]) if isinstance(choices, list) and choices else {}
        if isinstance(choice.get("finish_reason"), str):
            self.stop_reason = choice["finish_reason"]
            self.is_complete = True
            if self.stop_reason == "error":  # as routers of models say, often without another word
                raise model_error(ModelErrorKind.UNREACHABLE, self._model, "the endpoint ended its reply with an error")
        part = table(choice.get(name))
        return [
            *text_part(part.get("reasoning_content") or part.get("reasoning"), reasoning=True),
            *_content(part.get("content") or part.get("refusal")),
        ]


def _content(content: object) -> list[TextPart]:
    """Returns what a message says: most endpoints send a text, some a list with thinking and text apart."""
    if not isinstance(content, list):
        return text_part(content)
    parts = []
    for piece in map(table, content):
        thinking = piece.get("thinking")
        for inner in thinking if isinstance(thinking, list) else [{"text": thinking}]:
            parts += text_part(table(inner).get("text"), reasoning=True)
        parts += text_part(piece.get("text"))
    return parts
