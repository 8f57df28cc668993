"""What a completion has used, and whether it may go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2, limits_pb2

from rlm_server.engine.limits import to_duration
from rlm_server.engine.text import count

if TYPE_CHECKING:
    from rlm_server.engine.limits import CompletionLimits
    from rlm_server.engine.ports import CellResult, Clock, TokenCounts


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
        self._tokens_by_model: dict[str, limits_pb2.TokenUsage] = {}
        self._total = limits_pb2.TokenUsage()
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
        """How many tokens may still be sent; None means no limit."""
        limit = self.limits.max_input_tokens
        return None if limit is None else max(0, limit - self._total.input_tokens)

    @property
    def output_tokens_left(self) -> int | None:
        """How many tokens may still be made; None means no limit."""
        limit = self.limits.max_output_tokens
        return None if limit is None else max(0, limit - self._total.output_tokens)

    def check_tokens(self) -> None:
        """Must be asked before each call to a model.

        Raises:
            LimitReachedError: a limit of tokens is reached.
        """
        for left, limit, name in (
            (self.input_tokens_left, self.limits.max_input_tokens, "max_input_tokens"),
            (self.output_tokens_left, self.limits.max_output_tokens, "max_output_tokens"),
        ):
            if left == 0:
                raise LimitReachedError(event_pb2.FINISH_REASON_MAX_TOKENS, f"{name} of {limit:,} is reached")

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

    def record_model_call(self, model: str, tokens: TokenCounts | None) -> limits_pb2.TokenUsage:
        """Counts a call to a model; `tokens` is None if the endpoint did not report them. Returns that call's usage."""
        usage = limits_pb2.TokenUsage(call_count=1)
        if tokens is None:
            usage.unreported_call_count = 1
        else:
            usage.input_tokens = tokens.input_tokens
            usage.output_tokens = tokens.output_tokens
            usage.cached_input_tokens = tokens.cached_input_tokens
            usage.reasoning_tokens = tokens.reasoning_tokens
        add_usage(self._total, usage)
        add_usage(self._tokens_by_model.setdefault(model, limits_pb2.TokenUsage()), usage)
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
            by_model=self._tokens_by_model,
            iterations=self._iterations,
            subcall_count=self._subcall_count,
            sandbox_cpu_time=to_duration(self._cpu_time_seconds),
            sandbox_fuel=self._fuel,
        )


def add_usage(total: limits_pb2.TokenUsage, part: limits_pb2.TokenUsage) -> None:
    """Adds one usage to another."""
    total.call_count += part.call_count
    total.input_tokens += part.input_tokens
    total.output_tokens += part.output_tokens
    total.cached_input_tokens += part.cached_input_tokens
    total.reasoning_tokens += part.reasoning_tokens
    total.cost_microdollars += part.cost_microdollars
    total.unreported_call_count += part.unreported_call_count
