"""What the sandbox server says of cells, in the engine's terms."""

from __future__ import annotations

import json

from rlm_api.rlm.v1 import event_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from rlm_server.engine.ports.sessions import CellResult, VariablesState

_OUTCOMES = {
    pb.Outcome.Value(name): event_pb2.CodeOutcome.Value(f"CODE_{name}")
    for name in pb.Outcome.keys()  # noqa: SIM118 - an enum wrapper is no dict
}
STREAMS = {
    pb.OUTPUT_STREAM_STDOUT: event_pb2.OUTPUT_STREAM_STDOUT,
    pb.OUTPUT_STREAM_STDERR: event_pb2.OUTPUT_STREAM_STDERR,
}
_STATES = {
    pb.SESSION_STATE_KEPT: VariablesState.KEPT,
    pb.SESSION_STATE_RESTORED: VariablesState.RESTORED,
    pb.SESSION_STATE_RESET: VariablesState.LOST,
}


def variables_state(result: pb.CellResult) -> VariablesState:
    """Returns what has become of the variables."""
    return _STATES.get(result.state, VariablesState.KEPT)


def to_result(result: pb.CellResult) -> CellResult:
    """Returns a cell's result."""
    after_cell, after_cell_error = None, result.after_cell_error
    if result.after_cell_json:
        try:
            after_cell = json.loads(result.after_cell_json)
        except ValueError as error:
            after_cell_error = f"the sandbox's report is no JSON: {error}"
    return CellResult(
        outcome=_OUTCOMES[result.outcome],
        error_type=result.error.type,
        error_message=result.error.message,
        traceback=result.error.traceback,
        after_cell=after_cell,
        after_cell_error=after_cell_error,
        variables=variables_state(result),
        replayed_cell_count=result.restoration.replayed_cell_count,
        restoration_seconds=result.restoration.wall_time.ToNanoseconds() / 1e9,
        output_dropped_bytes=result.usage.output_dropped_bytes,
        wall_time_seconds=result.usage.wall_time.ToNanoseconds() / 1e9,
        cpu_time_seconds=result.usage.cpu_time.ToNanoseconds() / 1e9,
        fuel=result.usage.fuel,
        memory_bytes=result.usage.memory_bytes,
        files=[(file.path, file.size_bytes) for file in result.files],
        files_omitted_count=result.files_omitted_count,
    )
