"""What bounds a completion, and what its models are told about sampling, as plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2


@dataclass(frozen=True)
class Limits:
    """Limits of a completion, over its whole tree of calls unless said otherwise. None takes the server's default.

    Args:
        max_depth: how deep `rlm_query` may nest; 0 makes sub-calls plain model calls.
        max_iterations: turns of one node.
        wall_time_seconds: how long the completion may take.
        max_input_tokens: tokens sent to models.
        max_output_tokens: tokens produced by models.
        max_cost_microdollars: cost in millionths of a US dollar.
        max_subcalls: number of sub-calls; each item of a batch counts.
        max_concurrent_subcalls: sub-calls that run at once.
        max_concurrent_calls_per_model: sub-calls that ask the same model at once.
        max_consecutive_errors: turns of one node in a row that may fail.
        max_output_chars: how much of a turn's output the model is shown.
        max_subcall_prompt_chars: characters of one prompt to a model; larger ones are refused in the code.
        cell_wall_time_seconds: how long a block of code may take, sub-calls included.
        cell_fuel: WebAssembly instructions of a block of code.
        cell_memory_bytes: memory of a sandbox.
        cell_output_bytes: how much a block of code may write.
    """

    max_depth: int | None = None
    max_iterations: int | None = None
    wall_time_seconds: float | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_cost_microdollars: int | None = None
    max_subcalls: int | None = None
    max_concurrent_subcalls: int | None = None
    max_concurrent_calls_per_model: int | None = None
    max_consecutive_errors: int | None = None
    max_output_chars: int | None = None
    max_subcall_prompt_chars: int | None = None
    cell_wall_time_seconds: float | None = None
    cell_fuel: int | None = None
    cell_memory_bytes: int | None = None
    cell_output_bytes: int | None = None

    def to_proto(self) -> limits_pb2.Limits:
        """Returns the message."""
        cell = limits_pb2.CellLimits(
            fuel=self.cell_fuel or 0,
            memory_bytes=self.cell_memory_bytes or 0,
            wall_time=_duration(self.cell_wall_time_seconds),
            output_bytes=self.cell_output_bytes or 0,
        )
        return limits_pb2.Limits(
            max_depth=self.max_depth,
            max_iterations=self.max_iterations,
            wall_time=_duration(self.wall_time_seconds),
            max_input_tokens=self.max_input_tokens,
            max_output_tokens=self.max_output_tokens,
            max_cost_microdollars=self.max_cost_microdollars,
            max_subcalls=self.max_subcalls,
            max_concurrent_subcalls=self.max_concurrent_subcalls,
            max_concurrent_calls_per_model=self.max_concurrent_calls_per_model,
            max_consecutive_errors=self.max_consecutive_errors,
            max_output_chars=self.max_output_chars,
            max_subcall_prompt_chars=self.max_subcall_prompt_chars,
            cell=cell if cell.ByteSize() else None,
        )


@dataclass(frozen=True)
class Sampling:
    """What models are told about sampling. None, or empty, takes the endpoint's default.

    Args:
        temperature: from 0 to 2.
        top_p: over 0, at most 1.
        max_output_tokens: limit of one reply.
        reasoning_effort: what the endpoint takes, as `low`.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    reasoning_effort: str = ""

    def to_proto(self) -> pb.Sampling:
        """Returns the message."""
        return pb.Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_output_tokens=self.max_output_tokens,
            reasoning_effort=self.reasoning_effort,
        )


@dataclass(frozen=True)
class Compaction:
    """When a node's messages are summed up to fit its model's window. None takes the server's default.

    Args:
        disabled: leaves messages as they are; a node whose messages do not fit ends with `CONTEXT_TOO_LONG`.
        threshold: the part of the window beyond which messages are summed up, over 0 and at most 1.
        context_window_tokens: the size of the models' windows, at least 1000.
    """

    disabled: bool = False
    threshold: float | None = None
    context_window_tokens: int | None = None

    def to_proto(self) -> pb.Compaction:
        """Returns the message."""
        return pb.Compaction(
            disabled=self.disabled,
            threshold=self.threshold,
            context_window_tokens=self.context_window_tokens or 0,
        )


def _duration(seconds: float | None) -> duration_pb2.Duration | None:
    return None if seconds is None else to_duration(seconds)


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Returns the message of a number of seconds."""
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
