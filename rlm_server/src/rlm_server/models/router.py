"""All models of a server: each call goes to the endpoint of its model, again if it fails, and then to the fallbacks."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.budgets.token_estimate import estimate_tokens
from rlm_server.engine.images import images_of
from rlm_server.engine.ports.models import CallRepeated, ModelErrorKind, ModelRequest, ReplyEnd, TextPart
from rlm_server.models.openai_errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from rlm_server.engine.ports.models import ModelInfo, Sampling
    from rlm_server.models.gate import Gate
    from rlm_server.models.openai_endpoint import OpenAIEndpoint

_FIRST_DELAY_SECONDS = 0.5
_GREATEST_DELAY_SECONDS = 30.0
_EXPECTED_OUTPUT_TOKENS = 1000
"""What a reply without a limit counts in tokens a minute."""

_FALLBACK_KINDS = frozenset(
    {
        *(ModelErrorKind.OVERLOADED, ModelErrorKind.UNREACHABLE, ModelErrorKind.TIMEOUT),
        *(ModelErrorKind.AUTH, ModelErrorKind.QUOTA),
    }
)
"""Failures of an endpoint, after which another may do better. The others are the request's own."""


@dataclass(frozen=True)
class Target:
    """A model, and how it is called.

    Args:
        info: what is known of it.
        model: what its endpoint calls it.
        endpoint: answers.
        gate: bounds the calls.
        sampling: is sent where a request gives nothing.
        max_retries: how often a failed call is made again.
        try_timeout_seconds: how long one call may take.
        total_timeout_seconds: how long all of them may take.
    """

    info: ModelInfo
    model: str
    endpoint: OpenAIEndpoint
    gate: Gate
    sampling: Sampling
    max_retries: int
    try_timeout_seconds: float
    total_timeout_seconds: float

    @property
    def name(self) -> str:
        """What requests and code call it."""
        return self.info.name

    def request(self, asked: ModelRequest) -> ModelRequest:
        """Returns a call as its endpoint takes it."""
        return ModelRequest(self.model, asked.messages, asked.sampling.or_else(self.sampling), asked.node_id)


class ModelRouter:
    """All models of a server, as a `ports.ModelClient`.

    Args:
        find: returns the target of a name.
        jitter: returns a number from 0 to 1 by chance.
    """

    def __init__(self, find: Callable[[str], Target], jitter: Callable[[], float] = random.random) -> None:
        self._find = find
        self._jitter = jitter
        self._greatest_replies: dict[str, int] = {}
        """How many tokens a reply of a model may have at most, where its endpoint has told."""

    def info(self, model: str) -> ModelInfo:
        """Returns what is known of a model."""
        return self._find(model).info

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextPart | CallRepeated | ReplyEnd, None]:
        """Yields a reply as it comes in, a `ReplyEnd` last. Cancelling it ends the call at once.

        Raises:
            ModelError: the call failed for good.
        """
        first = self._find(request.model)
        shows_images = any(images_of(message.parts) for message in request.messages)
        others = [self._find(name) for name in first.info.fallbacks]
        targets = [first, *(one for one in others if one.info.takes_images or not shows_images)]
        deadline = _Deadline(asyncio.get_running_loop().time() + first.total_timeout_seconds)
        for number, target in enumerate(targets):
            try:
                async with contextlib.aclosing(self._tries(target, request, deadline)) as parts:
                    async for part in parts:
                        if isinstance(part, ReplyEnd) and target is not first:
                            part = dataclasses.replace(part, model=target.name)  # noqa: PLW2901
                        yield part
            except EndpointError as error:
                rest = targets[number + 1 :]
                is_over = asyncio.get_running_loop().time() >= deadline.seconds
                if not rest or is_over or error.kind not in _FALLBACK_KINDS:
                    raise
                yield CallRepeated(
                    error.kind,
                    f"{error.message}; {rest[0].name} is asked instead",
                    model=rest[0].name,
                    reply_had_begun=error.reply_had_begun,
                )
            else:
                return

    async def _tries(
        self, target: Target, request: ModelRequest, deadline: _Deadline
    ) -> AsyncGenerator[TextPart | CallRepeated | ReplyEnd, None]:
        """Calls one model, as often as it takes and its profile allows.

        Raises:
            EndpointError: it failed for good.
        """
        loop = asyncio.get_running_loop()
        own = self._with_room(target, target.request(request))
        attempt = 0
        while True:
            reply_has_begun = False
            try:
                waiting_since = loop.time()
                async with target.gate.passing(_tokens(own)):
                    # Others' calls in the way are no fault of this one.
                    deadline.seconds += loop.time() - waiting_since
                    try_deadline_seconds = min(deadline.seconds, loop.time() + target.try_timeout_seconds)
                    stream = target.endpoint.stream(own, target.name, deadline_seconds=try_deadline_seconds)
                    async with contextlib.aclosing(stream) as parts:
                        async for part in parts:
                            reply_has_begun = True
                            yield part
            except EndpointError as error:
                shorter = self._shortened(target, own, error)
                if shorter is not None:
                    own = shorter
                    room = f"{own.sampling.max_output_tokens:,} tokens"
                    message = f"{error.message}; it is asked again for a reply of at most {room}"
                    yield CallRepeated(error.kind, message, reply_had_begun=reply_has_begun)
                    continue
                delay_seconds = self._delay_seconds(attempt, error, request)
                is_last = attempt == target.max_retries or loop.time() + delay_seconds >= deadline.seconds
                if is_last or not error.may_pass:
                    error.reply_had_begun = reply_has_begun
                    raise
                message = (
                    f"{error.message}; it is asked again in {delay_seconds:.1f} s, "
                    f"for the {attempt + 2}. of at most {target.max_retries + 1} times"
                )
                yield CallRepeated(error.kind, message, reply_had_begun=reply_has_begun)
            else:
                return
            await asyncio.sleep(delay_seconds)
            attempt += 1

    def _with_room(self, target: Target, request: ModelRequest) -> ModelRequest:
        """Returns a call whose reply is allowed no more than the model can make, as far as its endpoint has told."""
        greatest, wanted = self._greatest_replies.get(target.name), request.sampling.max_output_tokens
        if greatest is None or wanted is None or wanted <= greatest:
            return request
        return _with_limit(request, greatest)

    def _shortened(self, target: Target, request: ModelRequest, error: EndpointError) -> ModelRequest | None:
        """Returns a call that was refused as it allows a longer reply than there is room for, with what there is."""
        wanted, refusal = request.sampling.max_output_tokens, error.refused_reply
        if wanted is None or refusal is None or not 0 < refusal.room_tokens < wanted:
            return None
        if refusal.is_of_model:
            self._greatest_replies[target.name] = refusal.room_tokens
        return _with_limit(request, refusal.room_tokens)

    def _delay_seconds(self, attempt: int, error: EndpointError, request: ModelRequest) -> float:
        """Returns how long to wait: at least what the endpoint asks for, else longer each time; never all at once.

        With a seed, events that tell it must be the same each time, so it is no chance then.
        """
        seed = request.sampling.seed
        part = self._jitter() if seed is None else random.Random(f"{seed}/{request.node_id}/{attempt}").random()  # noqa: S311
        if error.retry_after_seconds is not None:
            return error.retry_after_seconds * (1 + part / 10)
        longest: float = min(_GREATEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2**attempt)
        return longest * (0.5 + part / 2)


def _with_limit(request: ModelRequest, max_output_tokens: int) -> ModelRequest:
    sampling = dataclasses.replace(request.sampling, max_output_tokens=max_output_tokens)
    return dataclasses.replace(request, sampling=sampling)


def _tokens(request: ModelRequest) -> int:
    return estimate_tokens(request.messages) + (request.sampling.max_output_tokens or _EXPECTED_OUTPUT_TOKENS)


@dataclass
class _Deadline:
    """When a reply must be there, by the event loop's clock."""

    seconds: float
