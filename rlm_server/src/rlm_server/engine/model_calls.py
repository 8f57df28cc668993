"""One call to a model: its text as it comes, its usage into the budget."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2, limits_pb2

from rlm_server.engine.budgets.token_estimate import TokenBound, text_tokens
from rlm_server.engine.cut_input import CutInput
from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports.models import (
    CallRepeated,
    ModelError,
    ModelErrorKind,
    ModelRequest,
    ReplyEnd,
    TextPart,
    TokenCounts,
)
from rlm_server.engine.text import clean

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rlm_server.engine.budgets.accounts import Account
    from rlm_server.engine.budgets.budget import Reservation
    from rlm_server.engine.budgets.shares import Shares
    from rlm_server.engine.ports.models import Message, ModelInfo
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

    @property
    def is_filtered(self) -> bool:
        """Whether the endpoint's content filter cut it."""
        return self.stop_reason.startswith("content_filter")

    @property
    def cut(self) -> str:
        """What it was cut by, for people; empty if it is whole."""
        if self.is_filtered:
            return "the endpoint's content filter"
        return "the limit of tokens" if self.stop_reason == "length" else ""


@dataclass
class _Call:
    """A call that runs.

    Args:
        shares: those of the children that it belongs to.
        asked: the model that is asked now.
        models: those that may be asked.
        request: what is sent.
        input_tokens: how many tokens that has, at most.
        reservation: what is set aside for it; None while nothing is, as it has been broken off and not been made again.
        received: what has come of the reply.
        first_seconds: when the first of it came.
        end: its end.
        cost_nothing: it failed in a way that is not paid for.
    """

    shares: Sequence[Account]
    asked: ModelInfo
    models: Sequence[ModelInfo]
    request: ModelRequest
    input_tokens: int
    reservation: Reservation | None
    received: list[TextPart] = field(default_factory=list)
    first_seconds: float | None = None
    end: ReplyEnd | None = None
    cost_nothing: bool = False

    def estimate(self) -> TokenCounts:
        """Returns what it took, as far as can be told without the endpoint's word."""
        return TokenCounts(self.input_tokens, text_tokens([part.text for part in self.received]))


class ModelCaller:
    """Calls models for the nodes of one completion.

    Args:
        run: the completion's.
        shares: those of its children.
    """

    def __init__(self, run: Run, shares: Shares) -> None:
        self._run = run
        self._shares = shares
        self._bound = TokenBound()
        self._cut_input = CutInput()
        self._models_that_cut: set[str] = set()
        self._models_without_usage: set[str] = set()
        self._models_without_price: set[str] = set()

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
            LimitReachedError: what is left of tokens or money is not enough for the call, or for repeating it.
            ModelError: the call failed for good.
        """
        start_seconds = self._run.clock.monotonic_seconds()
        call = await self._begin(node_id, model, messages)
        try:
            async with contextlib.aclosing(self._run.models.stream(call.request)) as parts:
                async for part in parts:
                    if isinstance(part, ReplyEnd):
                        call.end = part
                    elif isinstance(part, CallRepeated):
                        await self._repeat(node_id, call, part)
                    else:
                        cleaned = TextPart(clean(part.text), part.reasoning)
                        call.received.append(cleaned)
                        call.first_seconds = call.first_seconds or self._run.clock.monotonic_seconds()
                        if on_text is not None:
                            await on_text(cleaned)
        except ModelError as error:
            call.cost_nothing = not call.received and error.kind is not ModelErrorKind.TIMEOUT
            raise
        finally:
            usage = self._settle(call)
        end_seconds = self._run.clock.monotonic_seconds()
        await self._tell_of_unknown_usage(node_id, call.asked.name, usage)
        await self._tell_of_cut_input(node_id, call)
        return ModelReply(
            model=call.asked.name,
            text="".join(part.text for part in call.received if not part.reasoning),
            stop_reason=call.end.stop_reason if call.end else "",
            usage=usage,
            wall_time_seconds=end_seconds - start_seconds,
            time_to_first_token_seconds=(call.first_seconds or end_seconds) - start_seconds,
        )

    async def _begin(self, node_id: str, model: str, messages: Sequence[Message]) -> _Call:
        """Sets aside what a call can use, and makes its request.

        Raises:
            LimitReachedError: there is not enough left.
        """
        run = self._run
        asked = run.models.info(model)
        models = [asked, *(run.models.info(name) for name in asked.fallbacks)]
        if run.spec.limits.max_cost_microdollars is not None:
            await self._tell_of_unknown_prices(node_id, models)
        input_tokens = self._bound.tokens(model, messages)
        sampling = run.spec.sampling_of(node_id)
        shares = self._shares.accounts(node_id)
        reservation = await run.budget.reserve(
            models, input_tokens, sampling.max_output_tokens or asked.max_output_tokens, shares
        )
        if reservation.output_tokens is not None:
            sampling = dataclasses.replace(sampling, max_output_tokens=reservation.output_tokens)
        request = ModelRequest(model, messages, sampling, node_id)
        return _Call(shares, asked, models, request, input_tokens, reservation)

    async def _repeat(self, node_id: str, call: _Call, repeated: CallRepeated) -> None:
        """Takes note that a call failed and is made again; what had come of its reply is void, but may have cost.

        Raises:
            LimitReachedError: with that, there is not enough left.
        """
        budget = self._run.budget
        if repeated.reply_had_begun:
            budget.record_model_call(call.asked, None, call.estimate(), call.shares)
            self._release(call)
            call.received.clear()
        if repeated.model:
            call.asked = self._run.models.info(repeated.model)
        await self._tell_repeated(node_id, repeated)
        if repeated.reply_had_begun:
            call.reservation = await budget.reserve(
                call.models, call.input_tokens, call.request.sampling.max_output_tokens, call.shares
            )

    def _settle(self, call: _Call) -> limits_pb2.TokenUsage:
        """Counts a call that is over, however it ended, and ends its reservation."""
        if call.reservation is None:  # what was made of it is counted, and it was not made again
            return limits_pb2.TokenUsage()
        tokens = call.end.tokens if call.end else None
        estimate = None if call.cost_nothing else call.estimate()
        usage = self._run.budget.record_model_call(call.asked, tokens, estimate, call.shares)
        self._release(call)
        if tokens is not None:
            self._bound.learn(call.asked.name, call.request.messages, tokens.input_tokens)
        return usage

    def _release(self, call: _Call) -> None:
        if call.reservation is not None:
            self._run.budget.release(call.reservation)
            call.reservation = None

    async def tell_of_reply(self, node_id: str, reply: ModelReply, iteration: int = 0) -> None:
        """Tells of a whole reply, and what the completion has used with it.

        Args:
            node_id: whose model gave it.
            reply: the reply.
            iteration: the turn that it began; 0 if it began none.
        """
        await self._run.events.emit(
            node_id,
            event_pb2.ModelReplyFinished(
                iteration=iteration,
                text=reply.text,
                stop_reason=reply.stop_reason,
                usage=reply.usage,
                wall_time=to_duration(reply.wall_time_seconds),
                time_to_first_token=to_duration(reply.time_to_first_token_seconds),
                model=reply.model,
            ),
        )
        await self.emit_usage(node_id)

    async def tell_of_cut(self, node_id: str, reply: ModelReply, what: str = "the reply") -> None:
        """Warns if a reply was cut."""
        if reply.cut:
            code = event_pb2.WARNING_CODE_REPLY_TRUNCATED
            await self._run.events.warn(node_id, code, f"{what} was cut by {reply.cut}")

    async def _tell_of_cut_input(self, node_id: str, call: _Call) -> None:
        """Warns, once for each model, if what was sent was likely cut."""
        model, tokens = call.asked.name, call.end.tokens if call.end else None
        if tokens is None or model in self._models_that_cut:
            return
        if self._cut_input.see(node_id, model, call.request.messages, tokens):
            self._models_that_cut.add(model)
            await self._run.events.warn(
                node_id,
                event_pb2.WARNING_CODE_INPUT_CUT,
                f"the endpoint of {model} seems to cut what it is sent: it reports {tokens.input_tokens:,} tokens, too "
                "few for that. Give the model a larger window there (with Ollama num_ctx), and its size here as "
                "window_tokens",
            )

    async def _tell_of_unknown_usage(self, node_id: str, model: str, usage: limits_pb2.TokenUsage) -> None:
        if usage.unreported_call_count and model not in self._models_without_usage:
            self._models_without_usage.add(model)
            await self._run.events.warn(
                node_id,
                event_pb2.WARNING_CODE_USAGE_UNKNOWN,
                f"the endpoint of {model} does not report token usage, so limits on tokens are kept by estimates",
            )

    async def _tell_of_unknown_prices(self, node_id: str, models: Sequence[ModelInfo]) -> None:
        for model in models:
            if model.price is None and model.name not in self._models_without_price:
                self._models_without_price.add(model.name)
                await self._run.events.warn(
                    node_id,
                    event_pb2.WARNING_CODE_PRICE_UNKNOWN,
                    f"the price of {model.name} is not configured, so the limit on cost holds only as far as its "
                    "endpoint reports itself what calls cost",
                )

    async def _tell_repeated(self, node_id: str, repeated: CallRepeated) -> None:
        code = event_pb2.WARNING_CODE_MODEL_FALLBACK if repeated.model else event_pb2.WARNING_CODE_MODEL_RETRY
        begun = "; the reply that had begun is void" if repeated.reply_had_begun else ""
        await self._run.events.warn(node_id, code, f"{repeated.message}{begun}")

    async def emit_usage(self, node_id: str) -> None:
        """Tells what the completion has used so far."""
        await self._run.events.emit(node_id, event_pb2.UsageUpdated(usage=self._run.budget.usage()))
