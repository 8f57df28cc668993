"""What the result of a cell says, whichever way the cell ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox_server.meter import Meter
from sandbox_server.model import CellResult, ExecutionError, Outcome, Usage, Variable
from sandbox_server.wasm.guest import End

if TYPE_CHECKING:
    from sandbox_server.events import CellEvents
    from sandbox_server.guest_answers import CellAnswer, GuestFailedError
    from sandbox_server.model import Limits
    from sandbox_server.sandbox_files import SandboxFiles
    from sandbox_server.wasm.guest import Guest, GuestEndedError

_KILLED = {
    End.DEADLINE: Outcome.DEADLINE,
    End.CANCELLED: Outcome.CANCELLED,
    End.OUT_OF_FUEL: Outcome.OUT_OF_FUEL,
    End.OUT_OF_MEMORY: Outcome.OUT_OF_MEMORY,
    End.EXITED: Outcome.EXITED,
    End.TRAP: Outcome.TRAP,
}


class CellReport:
    """Makes the result of one cell, and measures from its own making on what the cell takes.

    Args:
        guest: runs the cell.
        events: what the cell does.
        files: those of the sandbox.
        limits: the cell's.
    """

    def __init__(self, guest: Guest, events: CellEvents, files: SandboxFiles, limits: Limits) -> None:
        self._guest = guest
        self._events = events
        self._files = files
        self._limits = limits
        self._meter = Meter()

    def killed(self, error: GuestEndedError) -> CellResult:
        """Returns the result of a cell whose guest was ended."""
        outcome = _KILLED[error.end]
        message = error.message
        exit_code = None
        if outcome is Outcome.OUT_OF_FUEL:
            message = f"it used all of its fuel, {self._limits.fuel} units"
        elif outcome is Outcome.EXITED:
            exit_code = self._guest.exit_code
        described = ExecutionError(outcome.name, message)
        return self._result(outcome, completed=False, error=described, exit_code=exit_code)

    def failed(self, error: GuestFailedError) -> CellResult:
        """Returns the result of a cell of which the guest's own harness failed, as when memory ran out in it."""
        outcome = Outcome.OUT_OF_MEMORY if "MemoryError" in str(error) else Outcome.TRAP
        described = ExecutionError(outcome.name, str(error))
        return self._result(outcome, completed=False, error=described)

    def finished(self, answer: CellAnswer) -> CellResult:
        """Returns the result of a cell that came to its end."""
        outcome = Outcome[answer.outcome]
        error = None
        if answer.error is not None:
            error = ExecutionError(answer.error.type, answer.error.message, answer.error.traceback)
        if outcome is Outcome.OK and self._events.dropped_bytes:
            # What was written past `sys.stdout` does not stop the cell; it is cut all the same.
            outcome = Outcome.OUTPUT_LIMIT
            error = ExecutionError(outcome.name, "the cell wrote more than its output limit")
        files, files_omitted_count = self._files.changed()
        return self._result(
            outcome,
            dropped_bytes=answer.output_dropped_bytes,
            error=error,
            exit_code=answer.exit_code,
            value_repr=answer.value_repr,
            variables=[
                Variable(one.name, one.type, one.size, one.preview, one.preview_truncated, one.json, one.json_error)
                for one in answer.variables
            ],
            variables_omitted_count=answer.variables_omitted_count,
            after_cell_json=answer.after_cell_json,
            after_cell_error=answer.after_cell_error,
            files=files,
            files_omitted_count=files_omitted_count,
        )

    def _result(self, outcome: Outcome, *, dropped_bytes: int = 0, **members: Any) -> CellResult:
        usage = self._meter.usage(self._limits.fuel - self._guest.fuel, self._guest.memory_bytes())
        usage = Usage(
            fuel=usage.fuel,
            memory_bytes=usage.memory_bytes,
            wall_time_seconds=usage.wall_time_seconds,
            cpu_time_seconds=usage.cpu_time_seconds,
            output_bytes=self._events.output_bytes,
            output_dropped_bytes=dropped_bytes + self._events.dropped_bytes,
            host_call_count=self._events.call_count,
            scratch_bytes=self._files.scratch.used_bytes if not self._guest.has_ended else 0,
        )
        return CellResult(outcome=outcome, usage=usage, **members)
