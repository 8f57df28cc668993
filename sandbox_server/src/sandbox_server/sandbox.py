"""One sandbox: a guest interpreter with a session's inputs, host functions and prelude, in which cells run.

Everything here blocks, and runs on a thread that the caller provides; `answer` and `cancel` may be called from any
thread meanwhile.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_server import opening
from sandbox_server.cell_report import CellReport
from sandbox_server.events import CellEvents, SandboxListener, error_answer
from sandbox_server.fuel_watch import FuelWatch
from sandbox_server.guest_answers import GuestFailedError, read_cell
from sandbox_server.meter import Meter
from sandbox_server.model import (
    MIB,
    CellResult,
    FileContent,
    FileInput,
    Limits,
    SandboxSpec,
    Usage,
    VariableQuery,
)
from sandbox_server.opening import SandboxOpenError, ShortOfMemoryError
from sandbox_server.sandbox_files import NoFileError, SandboxFiles
from sandbox_server.wasm.guest import UNLIMITED_FUEL, End, Guest, GuestEndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_server.backlog import Backlog
    from sandbox_server.beginnings import Beginning, Beginnings
    from sandbox_server.model import Input
    from sandbox_server.tape import Tape
    from sandbox_server.wasm.engine import GuestEngine
    from sandbox_server.wasm.watchdog import Watchdog

_NEARLY_ALL = 0.7
"""The part of its memory that a guest has used which aborts for want of more: it asks for much at once."""


@dataclass(frozen=True)
class Workshop:
    """What sandboxes of an image are made with.

    Attributes:
        engine: has the image.
        watchdog: ends what takes too long.
        beginnings: what preludes of other sandboxes left behind.
    """

    engine: GuestEngine
    watchdog: Watchdog
    beginnings: Beginnings


class Sandbox:
    """A sandbox, from its making to `close`.

    Args:
        workshop: what it is made with.
        spec: what it begins with.
        listener: hears what cells do.
        tape: tells the guest what it may learn from outside.
        backlog: counts what the listener hears; None if nobody tells what was taken.
    """

    def __init__(
        self,
        workshop: Workshop,
        spec: SandboxSpec,
        listener: SandboxListener | None,
        tape: Tape,
        backlog: Backlog | None = None,
    ) -> None:
        self._workshop = workshop
        self._spec = spec
        self._limits = spec.limits
        self._tape = tape
        self._events = CellEvents(listener, tape, backlog)
        self._files = SandboxFiles(spec.limits.scratch_bytes, tape.wall_ns)
        self._lock = threading.Lock()
        self._living: Guest | None = None
        self._end: tuple[End, str] | None = None

    def open(self) -> Usage:
        """Makes the guest, runs the prelude, sets the inputs, and runs the prelude's setup.

        Raises:
            SandboxOpenError: an input is not what it says, the prelude fails, or limits do not suffice.
        """
        return self._within_limits("opening the sandbox failed", "limits", self._open)

    def _open(self) -> None:
        spec = self._spec
        beginning = self._workshop.beginnings.find_or_make(spec, self._take_guest)
        guest = self._make_guest(beginning)
        if beginning is None:
            opening.begin(guest, spec)
        else:
            guest.set_fuel(UNLIMITED_FUEL - beginning.fuel)  # whichever way it came to begin
        self._put_files(spec.files)
        opening.load_inputs(guest, spec.inputs)
        opening.set_up(guest, spec)

    def _make_guest(self, beginning: Beginning | None) -> Guest:
        try:
            guest = Guest(
                self._workshop.engine,
                memory_bytes=self._limits.memory_bytes,
                surroundings=self._tape,
                events=self._events,
                scratch=self._files.scratch,
                beginning=None if beginning is None else beginning.memory,
            )
        except GuestEndedError as error:
            message = f"the interpreter does not come up: {error.message}"
            raise SandboxOpenError("limits.memory_bytes", message) from None
        self._events.wake = guest.wake
        self._take_guest(guest)
        return guest

    def _take_guest(self, guest: Guest) -> None:
        """Has a guest be the one that is ended if this is to end."""
        with self._lock:
            self._living = guest
            end = self._end
        if end is not None:
            guest.end(*end)

    def _end_guest(self, end: End, message: str) -> None:
        with self._lock:
            self._end = self._end or (end, message)
            guest = self._living
        if guest is not None:
            guest.end(end, message)

    @property
    def _guest(self) -> Guest:
        if self._living is None:
            raise RuntimeError("the sandbox is not open")
        return self._living

    def set_inputs(self, inputs: Sequence[Input], files: Sequence[FileInput] = ()) -> Usage:
        """Sets variables and puts files into the scratch directory, within the time that a cell has.

        Raises:
            SandboxOpenError: an input is not what it says, as JSON that is none, or there is no room for it.
        """

        def work() -> None:
            self._guest.set_fuel(UNLIMITED_FUEL)
            self._put_files(files)
            opening.load_inputs(self._guest, inputs)

        return self._within_limits("setting them failed", "inputs", work)

    def read_file(self, path: str, offset: int, count: int) -> tuple[bytes, int]:
        """Returns a part of a file in the scratch directory, and the size of the whole.

        Raises:
            NoFileError: there is no such file.
        """
        return self._files.read(path, offset, count)

    def read_files(self, paths: Sequence[str]) -> list[FileContent]:
        """Returns files of the scratch directory; nothing once the sandbox was killed."""
        return self._files.read_all(paths) if self.is_alive else []

    def _within_limits(self, failure: str, field: str, work: Callable[[], None]) -> Usage:
        meter = Meter()
        alarm = self._workshop.watchdog.set_alarm(self._limits.wall_time_seconds, self._on_deadline(self._limits))
        try:
            work()
        except GuestEndedError as error:
            if error.end is End.OUT_OF_MEMORY:
                raise ShortOfMemoryError(f"{failure}: {error.message}") from None
            used_bytes, most_bytes = self._guest.memory_bytes(), self._limits.memory_bytes
            if error.end is End.TRAP and used_bytes > most_bytes * _NEARLY_ALL:  # the interpreter aborts without room
                message = f"{failure}: {used_bytes:,} of {most_bytes:,} bytes were used, and more were needed; raise it"
                raise SandboxOpenError("limits.memory_bytes", message) from None
            raise SandboxOpenError(field, f"{failure}: {error.message}") from None
        except GuestFailedError as error:
            raise SandboxOpenError(field, f"{failure}: {error}") from None
        finally:
            alarm.cancel()
        return meter.usage(UNLIMITED_FUEL - self._guest.fuel, self._guest.memory_bytes())

    def _put_files(self, files: Sequence[FileInput]) -> None:
        try:
            self._files.put(files)
        except NoFileError as error:
            raise SandboxOpenError(f"files[{error.index}]", f"cannot be put there: {error}") from None

    def run_cell(self, code: str, limits: Limits | None = None, variables: VariableQuery | None = None) -> CellResult:
        """Runs a cell to its end, however it ends.

        Args:
            code: Python source.
            limits: of this cell; those of memory and files are ignored, as they are the sandbox's.
            variables: what is to be told of the variables afterwards.
        """
        limits = limits or self._limits
        variables = variables or VariableQuery()
        report = CellReport(self._guest, self._events, self._files, limits)
        self._events.start_cell(limits.output_bytes)
        self._files.start_cell()
        self._guest.set_fuel(limits.fuel)
        alarm = self._workshop.watchdog.set_alarm(limits.wall_time_seconds, self._on_deadline(limits))
        fuel_watch = FuelWatch(self._workshop.watchdog, self._guest)
        try:
            opening.load_text(self._guest, code)
            query = {
                "include_all": variables.include_all,
                "json_values": list(variables.json_values),
                "preview_chars": variables.preview_chars,
                "include_inputs": variables.include_inputs,
            }
            answer = read_cell(opening.ask(self._guest, do="run", output_bytes=limits.output_bytes, variables=query))
        except GuestEndedError as error:
            return report.killed(error)
        except GuestFailedError as error:
            self._guest.end(End.TRAP, str(error))  # what its harness has left undone is not known
            return report.failed(error)
        finally:
            alarm.cancel()
            fuel_watch.cancel()
            self._events.end_cell()
        return report.finished(answer)

    def answer(self, call_id: int, value_json: str) -> None:
        """Answers a host call with a value."""
        self._events.answer(call_id, f'{{"id":{call_id},"value":{value_json}}}')

    def answer_error(self, call_id: int, error_type: str, message: str) -> None:
        """Answers a host call with an exception."""
        self._events.answer(call_id, error_answer(call_id, error_type, message))

    def wake(self) -> None:
        """Has a cell that waits for its backlog look at it again."""
        if self._events.wake is not None:
            self._events.wake()

    def cancel(self) -> None:
        """Kills the running cell, or the next one."""
        self._end_guest(End.CANCELLED, "the client cancelled the cell")

    def busy_bytes(self) -> int:
        """Returns how much memory it has, with its files, if it may take more now, or 0. Any thread may ask."""
        guest = self._living
        memory_bytes = 0 if guest is None else guest.busy_bytes()
        return memory_bytes + self._files.scratch.used_bytes if memory_bytes else 0

    def end_short_of_memory(self, memory_bytes: int) -> None:
        """Kills what runs, as the machine has no memory for what it has; any thread may call it."""
        had = f"this sandbox, with {memory_bytes // MIB} MiB, had the most of those that ran"
        self._end_guest(End.OUT_OF_MEMORY, f"the machine ran short of memory, and {had}")

    @property
    def next_call_id(self) -> int:
        """What the next host call is numbered."""
        return self._events.next_call_id

    @next_call_id.setter
    def next_call_id(self, call_id: int) -> None:
        self._events.next_call_id = call_id

    @property
    def is_alive(self) -> bool:
        """Whether another cell can run."""
        return not self._guest.has_ended

    def close(self) -> None:
        """Frees everything. No cell may be running."""
        if self._living is not None:
            self._living.close()

    def _on_deadline(self, limits: Limits) -> Callable[[], None]:
        message = f"it took longer than {limits.wall_time_seconds:g} s"

        def end() -> None:
            waits = "; it waited for the client to take what it had said" if self._events.is_ahead else ""
            self._end_guest(End.DEADLINE, message + waits)

        return end
