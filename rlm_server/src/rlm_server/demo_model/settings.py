"""Settings of the demo model: how slow it is, and how it fails."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_ID = "demo-model"
"""Name of the model. The second name is the same program, for set-ups that want another one for sub-calls."""

MODEL_IDS = (MODEL_ID, "demo-model-small")

DEMO_HEADER = "x-demo-model"
"""Request header that overrides `Behaviour` for one call, written like a query string: `fault=hang&fault_every=1`."""


class Fault(enum.StrEnum):
    """What a call that fails looks like to the caller."""

    NONE = "none"
    """The call succeeds."""
    RATE_LIMIT = "429"
    """Status 429 with a Retry-After header."""
    SERVER_ERROR = "500"
    """Status 500."""
    OVERLOADED = "503"
    """Status 503."""
    UNAUTHORIZED = "401"
    """Status 401, as for a wrong key."""
    PAYMENT_REQUIRED = "402"
    """Status 402."""
    QUOTA = "quota"
    """Status 429 with the code of an account that has no quota left."""
    CONTEXT_LENGTH = "context_length"
    """Status 400 with the code of messages that are too long."""
    CONTENT_FILTER = "content_filter"
    """The reply is withheld, and says so by its finish reason."""
    BROKEN_STREAM = "broken"
    """The connection is cut in the middle of the reply."""
    HANG = "hang"
    """The call never answers."""
    EMPTY = "empty"
    """The reply has no text, as from a model that spent its tokens on reasoning."""


@dataclass(frozen=True)
class Behaviour:
    """How calls are answered.

    Args:
        latency_seconds: time from the request to the first part of the reply.
        chunk_seconds: time between two parts of a streamed reply.
        chunk_chars: length of the parts of a streamed reply.
        fault: what calls that fail look like.
        fault_every: every n-th call fails; 1 means all, 0 none. Calls are counted over the life of the server.
        fault_first: the first n calls fail, the others do not. 0 leaves the choice to `fault_every`.
        retry_after_seconds: the Retry-After of status 429.
    """

    latency_seconds: float = 0.0
    chunk_seconds: float = 0.0
    chunk_chars: int = 64
    fault: Fault = Fault.NONE
    fault_every: int = 1
    fault_first: int = 0
    retry_after_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.chunk_chars < 1 or min(self.latency_seconds, self.chunk_seconds, self.retry_after_seconds) < 0:
            raise ValueError("chunk_chars must be at least 1, and times must not be negative")
        if min(self.fault_every, self.fault_first) < 0:
            raise ValueError("fault_every and fault_first must not be negative")

    def fault_of_call(self, number: int) -> Fault:
        """Returns how the n-th call fails, counted from 1."""
        if self.fault_first:
            return self.fault if number <= self.fault_first else Fault.NONE
        if self.fault_every and number % self.fault_every == 0:
            return self.fault
        return Fault.NONE

    @functools.lru_cache  # noqa: B019 - there are few behaviours, and they are small
    def overridden(self, text: str) -> Behaviour:
        """Returns the behaviour with the settings of a query string changed.

        Raises:
            ValueError: an unknown name, or a value that does not fit; the message says which.
        """
        types = {one.name: type(getattr(self, one.name)) for one in fields(self)}
        changes: dict[str, float | int | Fault] = {}
        for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=True):
            if name not in types:
                raise ValueError(f"unknown setting {name!r}; there are {', '.join(types)}")
            try:
                changes[name] = types[name](value)
            except ValueError as error:
                raise ValueError(f"{name}={value} does not fit: {error}") from None
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DemoModelSettings:
    """Settings of the demo model's server.

    Args:
        behaviour: how calls are answered that do not ask for anything else.
        api_key: the key that callers must send, or None to take any.
    """

    behaviour: Behaviour = field(default_factory=Behaviour)
    api_key: str | None = None

    def behaviour_of(self, model: str, headers: Mapping[str, str]) -> Behaviour:
        """Returns how a call is answered, given its model name and headers.

        A caller changes the behaviour by what follows a `?` in the model's name (`demo-model?latency_seconds=1`), or by
        the header `x-demo-model`.

        Raises:
            ValueError: the override has an unknown name or a bad value.
        """
        behaviour = self.behaviour
        for text in (model.partition("?")[2], headers.get(DEMO_HEADER, "")):
            if text:
                behaviour = behaviour.overridden(text)
        return behaviour
