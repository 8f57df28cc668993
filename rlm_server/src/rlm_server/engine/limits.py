"""The limits of a completion, with every default resolved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import limits_pb2

_NANOSECONDS_PER_SECOND = 1_000_000_000

MAX_DURATION_SECONDS = 315_576_000_000
"""What a `google.protobuf.Duration` can say."""


@dataclass(frozen=True)
class CellBounds:
    """Bounds of each block of code; 0 stands for the sandbox server's default.

    Args:
        fuel: WebAssembly instructions.
        memory_bytes: size of the sandbox's memory; 0 also lets the engine choose by the size of the context.
        wall_time_seconds: time of one block; 0 stands for what is left of the completion's.
        output_bytes: what one block may write.
    """

    fuel: int = 0
    memory_bytes: int = 0
    wall_time_seconds: float = 0.0
    output_bytes: int = 1024 * 1024

    def to_proto(self) -> limits_pb2.CellLimits:
        """Returns the message; what is 0 is absent."""
        message = limits_pb2.CellLimits(fuel=self.fuel, memory_bytes=self.memory_bytes, output_bytes=self.output_bytes)
        if self.wall_time_seconds:
            message.wall_time.CopyFrom(to_duration(self.wall_time_seconds))
        return message


@dataclass(frozen=True)
class CompletionLimits:
    """Limits of a completion. Without a comment they hold for the whole tree; None means unlimited.

    Args:
        max_depth: how deep `rlm_query` may nest; 0 makes all sub-calls plain model calls.
        max_iterations: turns of one node.
        wall_time_seconds: time of the completion.
        max_input_tokens: tokens sent to models.
        max_output_tokens: tokens made by models.
        max_cost_microdollars: what models cost, in millionths of a US dollar.
        max_subcalls: number of sub-calls; each item of a batch counts.
        max_concurrent_subcalls: sub-calls that run at once.
        max_concurrent_calls_per_model: sub-calls that ask the same model at once.
        max_consecutive_errors: turns of one node in a row that may end in an error.
        max_subcall_prompt_chars: characters of one prompt to a model.
        max_output_chars: how much of one turn's output the model is shown.
        cell: bounds of each block of code.
    """

    max_depth: int = 1
    max_iterations: int = 30
    wall_time_seconds: float = 1800.0
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_cost_microdollars: int | None = None
    max_subcalls: int = 1000
    max_concurrent_subcalls: int = 16
    max_concurrent_calls_per_model: int | None = None
    max_consecutive_errors: int = 10
    max_output_chars: int = 20_000
    max_subcall_prompt_chars: int = 1_000_000
    cell: CellBounds = dataclasses.field(default_factory=CellBounds)

    def to_proto(self) -> limits_pb2.Limits:
        """Returns the message; what is unlimited is absent."""
        return limits_pb2.Limits(
            max_depth=self.max_depth,
            max_iterations=self.max_iterations,
            wall_time=to_duration(self.wall_time_seconds),
            max_input_tokens=self.max_input_tokens,
            max_output_tokens=self.max_output_tokens,
            max_cost_microdollars=self.max_cost_microdollars,
            max_subcalls=self.max_subcalls,
            max_concurrent_subcalls=self.max_concurrent_subcalls,
            max_concurrent_calls_per_model=self.max_concurrent_calls_per_model,
            max_consecutive_errors=self.max_consecutive_errors,
            max_output_chars=self.max_output_chars,
            max_subcall_prompt_chars=self.max_subcall_prompt_chars,
            cell=self.cell.to_proto(),
        )


GREATEST_LIMITS = CompletionLimits(
    max_depth=8,
    max_iterations=1000,
    wall_time_seconds=24 * 3600.0,
    max_subcalls=100_000,
    max_concurrent_subcalls=256,
    max_consecutive_errors=1000,
    max_output_chars=1_000_000,
    max_subcall_prompt_chars=100_000_000,
    cell=CellBounds(output_bytes=64 * 1024 * 1024),
)
"""What an operator allows a request by default. In its `cell`, 0 leaves the cap to the sandbox server."""


LEAST_LIMITS = {
    "max_depth": 0,
    "max_iterations": 1,
    "max_input_tokens": 0,
    "max_output_tokens": 0,
    "max_cost_microdollars": 0,
    "max_subcalls": 0,
    "max_concurrent_subcalls": 1,
    "max_concurrent_calls_per_model": 1,
    "max_consecutive_errors": 1,
    "max_output_chars": 100,
    "max_subcall_prompt_chars": 1,
}
"""The least value of each limit that is a whole number."""


def limits_problem(limits: CompletionLimits) -> str:
    """Returns what is wrong with an operator's limits, beginning with the limit's name; empty if nothing is."""
    for name, least in LEAST_LIMITS.items():
        value = getattr(limits, name)
        if value is not None and value < least:
            return f"{name} is {value}; must be at least {least}"
    if not limits.wall_time_seconds > 0:
        return f"wall_time_seconds is {limits.wall_time_seconds:g}; must be more than 0"
    for name, seconds in (
        ("wall_time_seconds", limits.wall_time_seconds),
        ("cell.wall_time_seconds", limits.cell.wall_time_seconds),
    ):
        if seconds > MAX_DURATION_SECONDS:
            return f"{name} is {seconds:g}; must be at most {MAX_DURATION_SECONDS:,}"
    for field in dataclasses.fields(limits.cell):
        if not getattr(limits.cell, field.name) >= 0:
            return f"cell.{field.name} is {getattr(limits.cell, field.name)}; must not be negative"
    return ""


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Returns the `google.protobuf.Duration` of a number of seconds."""
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * _NANOSECONDS_PER_SECOND))
    return duration
