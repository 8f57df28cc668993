"""A worker process: runs sessions on threads until the server closes the socket that they share.

Started by `pool.WorkerPool` only.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_server.backlog import Backlog
from sandbox_server.beginnings import Beginnings
from sandbox_server.collecting import collect_seldom
from sandbox_server.heap import Heap
from sandbox_server.memory_gauge import MemoryGauge
from sandbox_server.model import STANDARD_IMAGE, Input, Limits, Outcome, SandboxSpec, Stream, ValueFormat, VariableQuery
from sandbox_server.opening import SandboxOpenError, ShortOfMemoryError
from sandbox_server.sandbox_files import NoFileError
from sandbox_server.session import SandboxFactory, Session
from sandbox_server.wasm.allowance import MemoryAllowance
from sandbox_server.wasm.engine import THREAD_STACK_BYTES, GuestEngine
from sandbox_server.wasm.watchdog import Watchdog
from sandbox_server.worker import jail
from sandbox_server.worker import protocol as wire
from sandbox_server.worker.stack import release_unused_stack
from sandbox_server.worker.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


_TURNS_AT_ONCE = 1
"""Calls of `Run`, and sessions that are opened, that a worker works at: there is a worker for each processor core."""

_PATIENCE_SECONDS = 0.1
"""How long one of them waits for those before it, should they take long. Were it shorter, a dozen clients would be too
many: each of their runs would then wait for Python's lock in no order, and the last of them for a tenth of a second."""

_UNNEEDED_SECONDS = 30.0
"""After so long, up to twice that, memories are freed that were kept for sandboxes that did not come."""


def main(
    images: dict[str, str],
    readable_directory: str,
    max_sessions: int,
    memory: tuple[str, int, int],
    socket_number: int,
) -> None:
    """Works until the socket is closed, and then ends the process.

    Args:
        images: paths of the compiled images by name.
        readable_directory: the only place from which files can be read once the walls are up.
        max_sessions: how many threads may be needed.
        memory: where `proc` and `sys` are, how many bytes sandboxes leave free, and how many workers there are.
        socket_number: descriptor of the worker's end of the socket pair.
    """
    faulthandler.enable()  # what is written goes to the server's log
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    heap = Heap()
    channel = _Channel(socket.socket(fileno=socket_number))
    # All now, as no file can be mapped later; it takes no memory until a sandbox uses it.
    root, floor_bytes, worker_count = memory
    allowance = MemoryAllowance(MemoryGauge(Path(root)), floor_bytes, worker_count)
    engines = {name: GuestEngine(Path(path), allowance) for name, path in images.items()}
    threading.stack_size(THREAD_STACK_BYTES)
    beginnings = {name: Beginnings(engine) for name, engine in engines.items()}
    _warm_up(engines[STANDARD_IMAGE], beginnings[STANDARD_IMAGE])
    # Before there are threads, as the walls are around the thread that calls, and those that it starts.
    walls = jail.enter(readable_directory)
    watchdog = Watchdog()
    factories = {name: SandboxFactory(engine, watchdog, beginnings[name]) for name, engine in engines.items()}
    threads = ThreadPoolExecutor(max_workers=max_sessions, thread_name_prefix="sandbox")
    heap.start_trimming()
    threading.Thread(target=_release_memories, args=[list(engines.values())], name="memories", daemon=True).start()
    worker = _Worker(factories, channel, threads, heap)
    collect_seldom()
    channel.send(wire.Ready(0, walls))
    for message in channel.messages():
        worker.take(message)
    # Nobody is there to hear of anything: what still runs must not keep the process.
    os._exit(0)


def _warm_up(engine: GuestEngine, beginnings: Beginnings) -> None:
    """Runs a cell, so that all modules are loaded while files can still be read, and it is known how a cell begins."""
    watchdog = Watchdog()
    inputs = [Input("x", value_format, b"1") for value_format in ValueFormat]

    def work() -> None:
        session = Session(SandboxFactory(engine, watchdog, beginnings), SandboxSpec(inputs=inputs), None)
        session.open()
        result = session.run_once("import time; time.sleep(0.0001)", Limits(), VariableQuery())
        session.close()
        if result.outcome is not Outcome.OK:
            raise RuntimeError(f"a trial cell ended with {result}")

    with ThreadPoolExecutor(max_workers=1) as threads:
        threads.submit(work).result()
    watchdog.close()


def _release_memories(engines: list[GuestEngine]) -> None:
    while True:
        time.sleep(_UNNEEDED_SECONDS)
        for engine in engines:
            engine.release_unneeded_memories()


class _Channel:
    """The worker's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: wire.FromWorker) -> None:
        """Sends a message; from any thread. Waits while the server does not read."""
        data = wire.encode(message)
        with self._sending:
            self._connection.sendall(data)

    def messages(self) -> Iterator[wire.ToWorker]:
        """Yields the server's messages until it closes the socket."""
        with self._connection.makefile("rb", buffering=1 << 16) as file:
            while header := file.read(wire.HEADER.size):
                (size,) = wire.HEADER.unpack(header)
                yield wire.to_worker_decoder.decode(file.read(size))


class _Worker:
    """Gives each message to the session that it is for."""

    def __init__(
        self, factories: Mapping[str, SandboxFactory], channel: _Channel, threads: ThreadPoolExecutor, heap: Heap
    ) -> None:
        self._factories = factories
        self._channel = channel
        self._threads = threads
        self._heap = heap
        self._sessions: dict[int, Session] = {}
        self._turns = Turns(_TURNS_AT_ONCE, _PATIENCE_SECONDS)

    def take(self, message: wire.ToWorker) -> None:
        """Does what is quick at once, and the rest on a thread."""
        number = message.session
        if isinstance(message, wire.Run):
            collected = _CollectedOutput()
            session = self._sessions[number] = Session(self._factories[message.spec.image], message.spec, collected)
            collected.session = session
            self._work(number, lambda: self._run(message, session, collected), in_turn=True, is_last=True)
            return
        if isinstance(message, wire.Open):
            factory, listener = self._factories[message.spec.image], _Reporter(number, self._channel)
            session = self._sessions[number] = Session(factory, message.spec, listener, Backlog())
            self._work(number, lambda: wire.Opened(number, session.open()), in_turn=True)
            return
        if isinstance(message, wire.Relieve):
            self._channel.send(wire.Relieved(0, self._relieve()))
            return
        known = self._sessions.get(number)
        if known is None:
            return  # the message crossed with the end of a `Run`
        if isinstance(message, wire.Answer):
            known.answer(message.call_id, message.value_json)
        elif isinstance(message, wire.AnswerError):
            known.answer_error(message.call_id, message.error_type, message.message)
        elif isinstance(message, wire.Taken):
            known.note_taken(message.chars)
        elif isinstance(message, wire.Cancel):
            known.cancel()
        elif isinstance(message, wire.Kill):
            known.kill()
        elif isinstance(message, wire.RunCell):
            cell = message
            self._work(number, lambda: self._run_cell(cell, known))
        elif isinstance(message, wire.SetInputs):
            inputs, files = message.inputs, message.files
            self._work(number, lambda: wire.InputsSet(number, known.set_inputs(inputs, files)))
        elif isinstance(message, wire.ReadFile):
            wanted = message
            self._work(number, lambda: self._read_file(wanted, known))
        else:
            self._work(number, lambda: self._close(number))

    def _relieve(self) -> int:
        largest = max(list(self._sessions.values()), key=Session.busy_bytes, default=None)
        memory_bytes = 0 if largest is None else largest.busy_bytes()
        if largest is not None and memory_bytes:
            largest.end_short_of_memory(memory_bytes)
        return memory_bytes

    def _run_cell(self, message: wire.RunCell, session: Session) -> wire.FromWorker:
        result, restoration = session.run_cell(message.code, message.limits, message.variables)
        return wire.CellFinished(message.session, result, restoration)

    def _run(self, message: wire.Run, session: Session, collected: _CollectedOutput) -> wire.FromWorker:
        session.open()
        result = session.run_once(message.code, message.spec.limits, message.variables)
        stdout, stderr = collected.text(Stream.STDOUT), collected.text(Stream.STDERR)
        return wire.RunFinished(message.session, result, stdout, stderr, session.read_files(message.output_files))

    def _read_file(self, message: wire.ReadFile, session: Session) -> wire.FromWorker:
        try:
            data, size_bytes = session.read_file(message.path, message.offset, message.count)
        except NoFileError as error:
            return wire.FilePart(message.session, b"", 0, str(error))
        return wire.FilePart(message.session, data, size_bytes)

    def _close(self, number: int) -> wire.FromWorker:
        self._sessions.pop(number).close()
        return wire.Closed(number)

    def _work(
        self, number: int, work: Callable[[], wire.FromWorker], *, in_turn: bool = False, is_last: bool = False
    ) -> None:
        """Has a thread do it, when it has its turn, and send what comes of it; the last thing closes the session."""

        def on_thread() -> None:
            try:
                answer = work()
            except SandboxOpenError as error:
                answer = wire.Refused(number, error.field, error.message, isinstance(error, ShortOfMemoryError))
            except Exception:  # noqa: BLE001 - the server logs it and fails the call
                answer = wire.Failed(number, traceback.format_exc())
            self._channel.send(answer)
            release_unused_stack()
            if is_last:  # after the answer, as unmapping memory takes a while
                self._sessions.pop(number).close()
            self._heap.note_freed()

        def on_thread_in_turn() -> None:
            with self._turns.taken():
                on_thread()

        self._threads.submit(on_thread_in_turn if in_turn else on_thread)


class _Reporter:
    """Tells the server what a session's cells do."""

    def __init__(self, number: int, channel: _Channel) -> None:
        self._number = number
        self._channel = channel

    def on_output(self, output: int, text: str) -> None:
        self._channel.send(wire.Output(self._number, output, text))

    def on_host_call(self, call_id: int, function: str, arguments_json: str) -> None:
        self._channel.send(wire.HostCall(self._number, call_id, function, arguments_json))


class _CollectedOutput:
    """Gathers the output of a `Run`."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {Stream.STDOUT: [], Stream.STDERR: []}
        self.session: Session | None = None

    def on_output(self, output: int, text: str) -> None:
        self._parts[Stream.STDERR if output == Stream.STDERR else Stream.STDOUT].append(text)

    def on_host_call(self, call_id: int, function: str, arguments_json: str) -> None:  # noqa: ARG002
        # `Run` declares no host functions, but code can find the import that they go through.
        if self.session is not None:
            self.session.answer_error(call_id, "no_host_functions", f"there is no host function {function}")

    def text(self, stream: Stream) -> str:
        return "".join(self._parts[stream])
