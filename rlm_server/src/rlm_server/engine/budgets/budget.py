"""What a completion has used, and whether it may go on.

Tokens and money are reserved before a call to a model is made, and settled when it is known what it took: so a batch of
calls cannot go over a limit together, each of them having seen that there is something left.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import limits_pb2

from rlm_server.engine.budgets.accounts import LEAST_REPLY_TOKENS, Account, Amounts
from rlm_server.engine.budgets.reported_prices import ReportedPrices
from rlm_server.engine.limits import to_duration
from rlm_server.engine.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.limits import CompletionLimits
    from rlm_server.engine.ports.clock import Clock
    from rlm_server.engine.ports.models import ModelInfo, TokenCounts
    from rlm_server.engine.ports.sessions import CellResult

_USUAL_REPLY_TOKENS = (4096, 32_768)
"""Least and most that is set aside for a reply without a limit of its own; between them an eighth of what is left."""

_SHARE_OF_A_REPLY = 8
_LEAST_ROOM_TOKENS = 1024
"""What is left to a reply of a window that the messages seem to fill: their estimate is rather too high."""


class SubcallsExhaustedError(Exception):
    """Sub-calls that are refused as there are not enough left."""


@dataclass(frozen=True)
class Reservation:
    """What is set aside for one call to a model.

    Args:
        output_tokens: tokens that its reply may have; None means that it has no limit.
        amounts: what it can take.
        accounts: those in which that is set aside.
        model: the one that is asked.
    """

    output_tokens: int | None
    amounts: Amounts = field(default_factory=Amounts)
    accounts: Sequence[Account] = ()
    model: ModelInfo | None = None


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
        self.account = Account(limits.max_input_tokens, limits.max_output_tokens, limits.max_cost_microdollars)
        """The tree's tokens and money."""
        self._prices = ReportedPrices()
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

    async def reserve(
        self,
        models: Sequence[ModelInfo],
        input_tokens: int,
        output_tokens: int | None,
        shares: Sequence[Account] = (),
    ) -> Reservation:
        """Sets aside what a call to a model can use. Waits, in turn, while others have set aside what it needs.

        Args:
            models: the one that is asked, and those that may be asked in its place.
            input_tokens: how many it sends, at most.
            output_tokens: the limit of the reply that is wanted, or None.
            shares: those of the children that the call belongs to.

        Raises:
            LimitReachedError: there is not enough left; nothing was set aside.
        """
        accounts = (*shares, self.account)
        if not any(account.has_limits for account in accounts):
            return Reservation(output_tokens)
        async with self._turn:
            while True:
                self._settled.clear()
                fitting = self._fit(accounts, models, input_tokens, output_tokens)
                if fitting is not None:
                    for account in accounts:
                        account.reserved.add(fitting.amounts)
                    self._reserved_count += 1
                    self._prices.begin(models[0])
                    return fitting
                await self._settled.wait()

    def release(self, reservation: Reservation) -> None:
        """Ends a reservation; what the call took must have been recorded before."""
        if reservation.accounts:
            for account in reservation.accounts:
                account.reserved.subtract(reservation.amounts)
            self._reserved_count -= 1
            if reservation.model is not None:
                self._prices.end(reservation.model)
            self._settled.set()

    def _fit(
        self, accounts: Sequence[Account], models: Sequence[ModelInfo], input_tokens: int, wanted: int | None
    ) -> Reservation | None:
        """Returns what can be set aside now, or None if that may be more when other calls are over.

        Raises:
            LimitReachedError: it will not be enough then, either.
        """
        if self.limits.max_cost_microdollars is not None and not self._prices.may_begin(models[0]):
            return None
        prices = [price for price in map(self._prices.price, models) if price]
        input_price = max((price.input for price in prices), default=0.0)
        output_price = max((price.output for price in prices), default=0.0)
        input_cost = input_tokens * input_price
        for account in accounts:
            account.check_input(input_tokens, input_cost)
        # How long the reply may be if the other calls take nothing, and if they take all that is set aside for them.
        best_of = [one.reply_room(input_tokens, input_cost, output_price, Amounts()) for one in accounts]
        at_best = min((room for room in best_of if room is not None), default=None)
        rooms_now = [one.reply_room(input_tokens, input_cost, output_price, one.reserved) for one in accounts]
        now = min((room for room in rooms_now if room is not None), default=None)
        if now is None:
            return Reservation(wanted, Amounts(input_tokens, wanted or 0, input_cost), accounts, models[0])
        if at_best is None:
            return None
        asked = wanted or _usual_reply(at_best, models, input_tokens)
        if at_best < min(asked, LEAST_REPLY_TOKENS):
            raise accounts[best_of.index(at_best)].exhausted(output_price)
        if now < min(asked, at_best) and self._reserved_count:
            return None
        reply = min(asked, now)
        amounts = Amounts(input_tokens, reply, input_cost + reply * output_price)
        return Reservation(reply, amounts, accounts, models[0])

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
        self,
        model: ModelInfo,
        tokens: TokenCounts | None,
        estimate: TokenCounts | None = None,
        shares: Sequence[Account] = (),
    ) -> limits_pb2.TokenUsage:
        """Counts a call to a model. Returns that call's usage.

        Args:
            model: the one that answered.
            tokens: what the endpoint reported, or None.
            estimate: what is charged to the limits if it reported nothing; None means that it cost nothing.
            shares: those of the children that the call belongs to, which are charged, too.
        """
        usage = limits_pb2.TokenUsage(call_count=1)
        charged = tokens or estimate
        if charged is not None:  # or else it was refused, which tells nothing
            self._prices.learn(model, tokens)
        if tokens is None:
            usage.unreported_call_count = 1
        else:
            usage.input_tokens = tokens.input_tokens
            usage.output_tokens = tokens.output_tokens
            usage.cached_input_tokens = tokens.cached_input_tokens
            usage.reasoning_tokens = tokens.reasoning_tokens
        if charged is not None:
            cost = cost_microdollars(model, charged)
            for account in (*shares, self.account):
                account.charged.add(Amounts(charged.input_tokens, charged.output_tokens, cost or 0.0))
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


def cost_microdollars(model: ModelInfo, tokens: TokenCounts) -> float | None:
    """Returns what a call cost in millionths of a US dollar, or None if neither price nor endpoint tells."""
    price = model.price
    if price is None:
        return tokens.cost_microdollars
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = tokens.input_tokens - tokens.cached_input_tokens
    return fresh * price.input + tokens.cached_input_tokens * cached_price + tokens.output_tokens * price.output


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


def _usual_reply(room: int, models: Sequence[ModelInfo], input_tokens: int) -> int:
    """Returns the limit of a reply that is given none: not all that is left, and what the windows have room for."""
    least, most = _USUAL_REPLY_TOKENS
    windows = [max(one.window_tokens - input_tokens, _LEAST_ROOM_TOKENS) for one in models if one.window_tokens]
    return min(max(least, room // _SHARE_OF_A_REPLY), most, *windows)
