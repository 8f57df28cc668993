"""What a completion has used, and whether it may go on.

Tokens and money are reserved before a call to a model is made, and settled when it is known what it took: so a batch of
calls cannot go over a limit together, each of them having seen that there is something left.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2, limits_pb2

from rlm_server.engine.limits import to_duration
from rlm_server.engine.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.limits import CompletionLimits
    from rlm_server.engine.ports import CellResult, Clock, ModelInfo, TokenCounts

_LEAST_REPLY_TOKENS = 16
"""A call that could have no longer reply is not worth its prompt. Some endpoints take no smaller limit either."""

_USUAL_REPLY_TOKENS = (4096, 32_768)
"""Least and most that is set aside for a reply without a limit of its own; between them an eighth of what is left."""

_SHARE_OF_A_REPLY = 8
_MICRODOLLARS_PER_DOLLAR = 1_000_000


class LimitReachedError(Exception):
    """A limit that ends a node, or the completion.

    Args:
        reason: which.
        message: for people, with the limit.
    """

    def __init__(self, reason: event_pb2.FinishReason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SubcallsExhaustedError(Exception):
    """Sub-calls that are refused as there are not enough left."""


@dataclass(frozen=True)
class Reservation:
    """What is set aside for one call to a model.

    Args:
        input_tokens: tokens that it is likely not to send more of.
        output_tokens: tokens that its reply may have; None means that it has no limit.
        microdollars: what it can cost.
    """

    input_tokens: int = 0
    output_tokens: int | None = None
    microdollars: float = 0.0


class Budget:
    """Counts what the whole tree of a completion uses.

    Args:
        limits: what it may use.
        clock: its time starts to run now.
        elapsed_seconds: how much of the time earlier runs took.
    """

    def __init__(self, limits: CompletionLimits, clock: Clock, elapsed_seconds: float = 0.0) -> None:
        self.limits = limits
        self._clock = clock
        self._start_seconds = clock.monotonic_seconds() - elapsed_seconds
        self._usage_by_model: dict[str, limits_pb2.TokenUsage] = {}
        self._total = limits_pb2.TokenUsage()
        self._charged = _Amounts()
        self._reserved = _Amounts()
        self._reserved_count = 0
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()
        self._iterations = 0
        self._subcall_count = 0
        self._cpu_time_seconds = 0.0
        self._fuel = 0

    def elapsed_seconds(self) -> float:
        """Returns how long the completion has run."""
        return self._clock.monotonic_seconds() - self._start_seconds

    def remaining_seconds(self) -> float:
        """Returns how long it may still run, at least 0."""
        return max(0.0, self.limits.wall_time_seconds - self.elapsed_seconds())

    @property
    def subcalls_left(self) -> int:
        """How many sub-calls may still be made."""
        return self.limits.max_subcalls - self._subcall_count

    @property
    def input_tokens_left(self) -> int | None:
        """How many tokens may still be sent; None means no limit. Calls that run count when they are over."""
        return _left(self.limits.max_input_tokens, self._charged.input_tokens)

    @property
    def output_tokens_left(self) -> int | None:
        """How many tokens may still be made, likewise."""
        return _left(self.limits.max_output_tokens, self._charged.output_tokens)

    @property
    def cost_microdollars_left(self) -> int | None:
        """How much may still be paid, likewise."""
        return _left(self.limits.max_cost_microdollars, math.ceil(self._charged.microdollars))

    async def reserve(self, models: Sequence[ModelInfo], input_tokens: int, output_tokens: int | None) -> Reservation:
        """Sets aside what a call to a model can use. Waits, in turn, while others have set aside what it needs.

        Args:
            models: the one that is asked, and those that may be asked in its place.
            input_tokens: how many it sends, at most.
            output_tokens: the limit of the reply that is wanted, or None.

        Raises:
            LimitReachedError: there is not enough left; nothing was set aside.
        """
        limits = self.limits
        if limits.max_input_tokens is limits.max_output_tokens is limits.max_cost_microdollars is None:
            return Reservation(output_tokens=output_tokens)
        async with self._turn:
            while True:
                self._settled.clear()
                fitting = self._fit(models, input_tokens, output_tokens)
                if fitting is not None:
                    self._reserved.add(fitting)
                    self._reserved_count += 1
                    return fitting
                await self._settled.wait()

    def release(self, reservation: Reservation) -> None:
        """Ends a reservation; what the call took must have been recorded before."""
        if self._reserved_count:
            self._reserved.subtract(reservation)
            self._reserved_count -= 1
            self._settled.set()

    def _fit(self, models: Sequence[ModelInfo], input_tokens: int, wanted: int | None) -> Reservation | None:
        """Returns what can be set aside now, or None if that may be more when other calls are over.

        Raises:
            LimitReachedError: it will not be enough then, either.
        """
        input_price = max((one.price.input for one in models if one.price), default=0.0)
        output_price = max((one.price.output for one in models if one.price), default=0.0)
        input_cost = input_tokens * input_price
        self._check_input(input_tokens, input_cost)
        # How long the reply may be if the other calls take nothing, and if they take all that is set aside for them.
        at_best, now = (
            self._reply_room(reserved, input_tokens, input_cost, output_price)
            for reserved in (_Amounts(), self._reserved)
        )
        if now is None:
            return Reservation(input_tokens, wanted, input_cost)
        if at_best is None:
            return None
        least, most = _USUAL_REPLY_TOKENS
        asked = wanted or min(max(least, at_best // _SHARE_OF_A_REPLY), most)
        if at_best < min(asked, _LEAST_REPLY_TOKENS):
            raise self._exhausted(output_price)
        if now < asked and self._reserved_count:
            return None
        reply = min(asked, now)
        return Reservation(input_tokens, reply, input_cost + reply * output_price)

    def _check_input(self, input_tokens: int, input_cost: float) -> None:
        tokens_left, cost_left = self.input_tokens_left, self.cost_microdollars_left
        if tokens_left is not None and (input_tokens > tokens_left or tokens_left == 0):
            raise LimitReachedError(
                event_pb2.FINISH_REASON_MAX_TOKENS,
                f"max_input_tokens of {self.limits.max_input_tokens:,} is reached: {tokens_left:,} are left, and the "
                f"next call may send {input_tokens:,}",
            )
        if cost_left is not None and (input_cost > cost_left or cost_left == 0):
            raise LimitReachedError(
                event_pb2.FINISH_REASON_MAX_COST,
                f"max_cost_microdollars of {self.limits.max_cost_microdollars:,} is reached: ${dollars(cost_left)} are "
                f"left, and what the next call sends may cost ${dollars(input_cost)}",
            )

    def _reply_room(self, reserved: _Amounts, input_tokens: int, input_cost: float, output_price: float) -> int | None:
        """Returns how long a reply may be beside what is reserved; None means no limit, less than 0 no call at all."""
        rooms: list[int] = []
        if self.input_tokens_left is not None and input_tokens + reserved.input_tokens > self.input_tokens_left:
            return -1
        if self.output_tokens_left is not None:
            rooms.append(self.output_tokens_left - reserved.output_tokens)
        if self.cost_microdollars_left is not None:
            cost_left = self.cost_microdollars_left - reserved.microdollars - input_cost
            if cost_left < 0:
                return -1
            if output_price:
                rooms.append(int(cost_left / output_price))
        return min(rooms, default=None)

    def _exhausted(self, output_price: float) -> LimitReachedError:
        limits, tokens_left = self.limits, self.output_tokens_left
        if tokens_left is not None and tokens_left < _LEAST_REPLY_TOKENS:
            return LimitReachedError(
                event_pb2.FINISH_REASON_MAX_TOKENS,
                f"max_output_tokens of {limits.max_output_tokens:,} is reached: {count(tokens_left, 'token')} left for "
                "a reply",
            )
        left = dollars(self.cost_microdollars_left or 0)
        return LimitReachedError(
            event_pb2.FINISH_REASON_MAX_COST,
            f"max_cost_microdollars of {limits.max_cost_microdollars or 0:,} is reached: ${left} are left, too little "
            f"for a prompt and a reply at ${output_price:g} a million tokens",
        )

    def reserve_subcalls(self, number: int) -> None:
        """Takes sub-calls out of the budget, all or none, so that a batch cannot overshoot it.

        Raises:
            SubcallsExhaustedError: there are not enough left.
        """
        if number > self.subcalls_left:
            raise SubcallsExhaustedError(
                f"{count(number, 'sub-call')} asked for, {self.subcalls_left:,} left of {self.limits.max_subcalls:,}; "
                "none was made. Ask for fewer, or do it in Python"
            )
        self._subcall_count += number

    def record_model_call(
        self, model: ModelInfo, tokens: TokenCounts | None, estimate: TokenCounts | None = None
    ) -> limits_pb2.TokenUsage:
        """Counts a call to a model. Returns that call's usage.

        Args:
            model: the one that answered.
            tokens: what the endpoint reported, or None.
            estimate: what is charged to the limits if it reported nothing; None means that it cost nothing.
        """
        usage = limits_pb2.TokenUsage(call_count=1)
        charged = tokens or estimate
        if tokens is None:
            usage.unreported_call_count = 1
        else:
            usage.input_tokens = tokens.input_tokens
            usage.output_tokens = tokens.output_tokens
            usage.cached_input_tokens = tokens.cached_input_tokens
            usage.reasoning_tokens = tokens.reasoning_tokens
        if charged is not None:
            cost = cost_microdollars(model, charged)
            self._charged.input_tokens += charged.input_tokens
            self._charged.output_tokens += charged.output_tokens
            self._charged.microdollars += cost or 0.0
            if tokens is not None and cost is not None:
                # So that a thousand calls of half a microdollar do not look like nothing.
                usage.cost_microdollars = math.ceil(cost - 1e-9)
            usage.unpriced_call_count = int(cost is None)
        add_usage(self._total, usage)
        add_usage(self._usage_by_model.setdefault(model.name, limits_pb2.TokenUsage()), usage)
        return usage

    def record_iteration(self) -> None:
        """Counts a turn of some node."""
        self._iterations += 1

    def record_cell(self, result: CellResult) -> None:
        """Counts a block of code."""
        self._cpu_time_seconds += result.cpu_time_seconds
        self._fuel += result.fuel

    def usage(self) -> limits_pb2.Usage:
        """Returns what the whole tree has used so far."""
        return limits_pb2.Usage(
            total=self._total,
            by_model=self._usage_by_model,
            iterations=self._iterations,
            subcall_count=self._subcall_count,
            sandbox_cpu_time=to_duration(self._cpu_time_seconds),
            sandbox_fuel=self._fuel,
        )


@dataclass
class _Amounts:
    """Tokens and money."""

    input_tokens: int = 0
    output_tokens: int = 0
    microdollars: float = 0.0

    def add(self, reservation: Reservation) -> None:
        self.input_tokens += reservation.input_tokens
        self.output_tokens += reservation.output_tokens or 0
        self.microdollars += reservation.microdollars

    def subtract(self, reservation: Reservation) -> None:
        self.input_tokens -= reservation.input_tokens
        self.output_tokens -= reservation.output_tokens or 0
        self.microdollars -= reservation.microdollars


def cost_microdollars(model: ModelInfo, tokens: TokenCounts) -> float | None:
    """Returns what a call cost in millionths of a US dollar, or None if neither price nor endpoint tells."""
    price = model.price
    if price is None:
        return tokens.cost_microdollars
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = tokens.input_tokens - tokens.cached_input_tokens
    return fresh * price.input + tokens.cached_input_tokens * cached_price + tokens.output_tokens * price.output


def dollars(microdollars: float) -> str:
    """Returns an amount as people read it, without the sign."""
    return f"{microdollars / _MICRODOLLARS_PER_DOLLAR:.6f}".rstrip("0").rstrip(".")


def add_usage(total: limits_pb2.TokenUsage, part: limits_pb2.TokenUsage) -> None:
    """Adds one usage to another."""
    total.call_count += part.call_count
    total.input_tokens += part.input_tokens
    total.output_tokens += part.output_tokens
    total.cached_input_tokens += part.cached_input_tokens
    total.reasoning_tokens += part.reasoning_tokens
    total.cost_microdollars += part.cost_microdollars
    total.unreported_call_count += part.unreported_call_count
    total.unpriced_call_count += part.unpriced_call_count


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)
