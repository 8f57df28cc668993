"""One call to a model: its text as it comes, its usage into the budget."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.ports import CallRepeated, ModelRequest, ReplyEnd, TextPart
from rlm_server.engine.text import clean

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rlm_api.rlm.v1 import limits_pb2

    from rlm_server.engine.ports import Message
    from rlm_server.engine.run import Run


@dataclass(frozen=True)
class ModelReply:
    """A whole reply, and what it took. `model` is the one that gave it: the one that was asked, or a fallback."""

    model: str
    text: str
    stop_reason: str
    usage: limits_pb2.TokenUsage
    wall_time_seconds: float
    time_to_first_token_seconds: float


class ModelCaller:
    """Calls models for the nodes of one completion.

    Args:
        run: the completion's.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._models_without_usage: set[str] = set()

    async def ask(
        self,
        node_id: str,
        model: str,
        messages: Sequence[Message],
        on_text: Callable[[TextPart], Awaitable[None]] | None = None,
    ) -> ModelReply:
        """Makes a call.

        Args:
            node_id: the node that makes it.
            model: the model's name.
            messages: the conversation.
            on_text: gets the reply as it comes in.

        Raises:
            LimitReachedError: a limit of tokens is reached; nothing was sent.
            ModelError: the call failed for good.
        """
        run = self._run
        run.budget.check_tokens()
        start_seconds = run.clock.monotonic_seconds()
        first_seconds: float | None = None
        texts: list[str] = []
        end: ReplyEnd | None = None
        usage: limits_pb2.TokenUsage | None = None
        request = ModelRequest(model, messages, run.spec.sampling, node_id)
        asked = model
        try:
            async with contextlib.aclosing(run.models.stream(request)) as parts:
                async for part in parts:
                    if isinstance(part, ReplyEnd):
                        end = part
                        continue
                    if isinstance(part, CallRepeated):
                        texts.clear()
                        if part.reply_had_begun:
                            run.budget.record_model_call(asked, None)
                        asked = part.model or asked
                        await self._tell_repeated(node_id, part)
                        continue
                    if first_seconds is None:
                        first_seconds = run.clock.monotonic_seconds()
                    cleaned = TextPart(clean(part.text), part.reasoning)
                    if not part.reasoning:
                        texts.append(cleaned.text)
                    if on_text is not None:
                        await on_text(cleaned)
        finally:
            # A call that fails or is cancelled after it was sent has cost something, but nobody says how much.
            usage = run.budget.record_model_call(asked, end.tokens if end else None)
        end_seconds = run.clock.monotonic_seconds()
        if usage.unreported_call_count and asked not in self._models_without_usage:
            self._models_without_usage.add(asked)
            await run.events.warn(
                node_id,
                event_pb2.WARNING_CODE_USAGE_UNKNOWN,
                f"the endpoint of {asked} does not report token usage, so limits on tokens cannot be kept",
            )
        return ModelReply(
            model=asked,
            text="".join(texts),
            stop_reason=end.stop_reason if end else "",
            usage=usage,
            wall_time_seconds=end_seconds - start_seconds,
            time_to_first_token_seconds=(first_seconds or end_seconds) - start_seconds,
        )

    async def _tell_repeated(self, node_id: str, repeated: CallRepeated) -> None:
        code = event_pb2.WARNING_CODE_MODEL_FALLBACK if repeated.model else event_pb2.WARNING_CODE_MODEL_RETRY
        begun = "; the reply that had begun is void" if repeated.reply_had_begun else ""
        await self._run.events.warn(node_id, code, f"{repeated.message}{begun}")

    async def emit_usage(self, node_id: str) -> None:
        """Tells what the completion has used so far."""
        await self._run.events.emit(node_id, event_pb2.UsageUpdated(usage=self._run.budget.usage()))
