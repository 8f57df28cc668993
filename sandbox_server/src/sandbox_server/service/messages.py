"""Translates between the vocabulary of sandboxes and the messages of `sandbox.v1`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import duration_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from sandbox_server.model import CellResult, Limits, Restoration, SessionState, Usage, Variable

if TYPE_CHECKING:
    from sandbox_server.model import ExecutionError


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Returns a duration, to the nanosecond."""
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def to_limits(limits: Limits) -> pb.Limits:
    """Returns the message of limits."""
    return pb.Limits(
        fuel=limits.fuel,
        memory_bytes=limits.memory_bytes,
        wall_time=to_duration(limits.wall_time_seconds),
        output_bytes=limits.output_bytes,
        scratch_bytes=limits.scratch_bytes,
    )


def to_usage(usage: Usage) -> pb.Usage:
    """Returns the message of what something cost."""
    return pb.Usage(
        fuel=usage.fuel,
        memory_bytes=usage.memory_bytes,
        wall_time=to_duration(usage.wall_time_seconds),
        cpu_time=to_duration(usage.cpu_time_seconds),
        output_bytes=usage.output_bytes,
        output_dropped_bytes=usage.output_dropped_bytes,
        host_call_count=usage.host_call_count,
        scratch_bytes=usage.scratch_bytes,
    )


def to_result(result: CellResult, restoration: Restoration) -> pb.CellResult:
    """Returns the message of how a cell went."""
    message = pb.CellResult(
        outcome=pb.Outcome.Value(f"OUTCOME_{result.outcome.name}"),
        error=None if result.error is None else _to_error(result.error),
        exit_code=result.exit_code,
        value_repr=result.value_repr,
        variables=[_to_variable(variable) for variable in result.variables],
        variables_omitted_count=result.variables_omitted_count,
        after_cell_json=result.after_cell_json,
        after_cell_error=result.after_cell_error,
        files=[pb.File(path=file.path, size_bytes=file.size_bytes) for file in result.files],
        files_omitted_count=result.files_omitted_count,
        usage=to_usage(result.usage),
        state=pb.SessionState.Value(f"SESSION_STATE_{restoration.state.name}"),
    )
    if restoration.state is not SessionState.KEPT:
        message.restoration.CopyFrom(
            pb.Restoration(
                replayed_cell_count=restoration.replayed_cell_count,
                wall_time=to_duration(restoration.wall_time_seconds),
                fuel=restoration.fuel,
                not_restored_reason=restoration.not_restored_reason,
            )
        )
    return message


def _to_error(error: ExecutionError) -> pb.ExecutionError:
    return pb.ExecutionError(type=error.type, message=error.message, traceback=error.traceback)


def _to_variable(variable: Variable) -> pb.Variable:
    return pb.Variable(
        name=variable.name,
        type=variable.type,
        size=variable.size,
        preview=variable.preview,
        preview_truncated=variable.preview_truncated,
        json=variable.json,
        json_error=variable.json_error,
    )
