"""Models that reply.

ModelError   a call to a model failed for good
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from rlm_server.engine.images import text_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from rlm_server.engine.images import Content, Image


class ModelErrorKind(enum.StrEnum):
    """Why a call to a model failed."""

    AUTH = "auth"
    QUOTA = "quota"
    OVERLOADED = "overloaded"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_FILTER = "content_filter"
    BAD_REQUEST = "bad_request"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"


class ModelError(Exception):
    """A call to a model that failed for good.

    Args:
        kind: why.
        message: what happened and how to mend it, for people.
    """

    def __init__(self, kind: ModelErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Args:
        role: `system`, `user` or `assistant`.
        content: its text.
        parts: texts and pictures in order, which take the place of `content`, where a user shows pictures.
    """

    role: str
    content: str
    parts: tuple[str | Image, ...] = ()

    @classmethod
    def from_user(cls, content: Content) -> Self:
        """Makes a user's message of text, or of texts and pictures."""
        return cls("user", text_of(content), () if isinstance(content, str) else content)


@dataclass(frozen=True)
class Sampling:
    """What is passed to the models' endpoint; None leaves it to the endpoint."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    reasoning_effort: str | None = None
    seed: int | None = None

    def or_else(self, defaults: Sampling) -> Sampling:
        """Returns the same with defaults in place of what is None."""
        return Sampling(**(vars(defaults) | {name: value for name, value in vars(self).items() if value is not None}))


@dataclass(frozen=True)
class ModelRequest:
    """One call to a model. `node_id` is that of the node that makes it, one call after the other."""

    model: str
    messages: Sequence[Message]
    sampling: Sampling = field(default_factory=Sampling)
    node_id: str = ""


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one call; cached ones are part of the input, reasoning is part of the output.

    `cost_microdollars` is the cost that the endpoint itself reported, in millionths of a US dollar, if it did.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    cost_microdollars: float | None = None


@dataclass(frozen=True)
class TextPart:
    """The next part of a reply, or of the reasoning before it."""

    text: str
    reasoning: bool = False


@dataclass(frozen=True)
class ReplyEnd:
    """The end of a reply.

    Args:
        stop_reason: what the endpoint gave, as `stop` or `length`.
        tokens: what it reported, or None if it reported nothing.
        model: the model that gave the reply, if it is another than the one that was asked.
    """

    stop_reason: str
    tokens: TokenCounts | None
    model: str = ""


@dataclass(frozen=True)
class CallRepeated:
    """A call failed and is made again. Text that came of it before is void.

    Args:
        kind: why it failed.
        message: what happened and what is done now, for people.
        model: the model that is asked now, if it is another than before.
        reply_had_begun: some of the reply had come, so the failed call may have cost something.
    """

    kind: ModelErrorKind
    message: str
    model: str = ""
    reply_had_begun: bool = False


@dataclass(frozen=True)
class Price:
    """What a model costs, in US dollars for a million tokens, which is millionths of a dollar for a token.

    Args:
        input: tokens sent.
        output: tokens made, reasoning included.
        cached_input: tokens sent that the endpoint had cached. None means the price of the others.
    """

    input: float
    output: float
    cached_input: float | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model.

    Args:
        name: what requests and code call it.
        window_tokens: how many tokens messages and reply may have together, or None if it is not known.
        max_output_tokens: the limit of one reply where a request gives none, or None if there is none.
        price: what it costs, or None if it is not known.
        fallbacks: the models that are asked when it fails, in order.
        takes_images: whether it can be shown pictures, as far as is known.
    """

    name: str
    window_tokens: int | None = None
    max_output_tokens: int | None = None
    price: Price | None = None
    fallbacks: tuple[str, ...] = ()
    takes_images: bool = True


class ModelClient(Protocol):
    """Calls models."""

    def info(self, model: str) -> ModelInfo:
        """Returns what is known of a model."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[TextPart | CallRepeated | ReplyEnd, None]:
        """Yields a reply as it comes in, a `ReplyEnd` last. Cancelling it ends the call at once.

        Raises:
            ModelError: the call failed for good.
        """
