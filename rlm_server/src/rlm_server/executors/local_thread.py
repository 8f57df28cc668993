"""One cell on a thread: its output, its host calls, and how it is made to stop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.ports import CellResult, VariablesState
from rlm_server.executors import thread_streams
from rlm_server.executors.namespace import GuestHostCallError, Namespace, StopCell, format_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rlm_server.engine.ports import OutputHandler

_GRACE_SECONDS = 0.5
_MAX_OUTPUT_PART_CHARS = 8 * 1024


class _CellKilled(BaseException):
    """Is raised in the thread of a cell that must stop."""


class _OutputLimitReached(BaseException):
    """Is raised in a cell that writes too much."""


class CellThread:
    """Runs one cell.

    Args:
        namespace: the session's variables.
        name: what tracebacks call the cell.
        code: Python source.
        output_bytes: how much it may write.
        answer: answers a host call, on the event loop: takes the function and its arguments as JSON,
            returns JSON.
    """

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        code: str,
        output_bytes: int,
        answer: Callable[[str, str], Awaitable[str]],
    ) -> None:
        self._namespace = namespace
        self._name = name
        self._code = code
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[CellResult] = self._loop.create_future()
        self._output = _Output(self._loop, output_bytes)
        self._calls: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._runs_code = False
        self._killed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    async def run(self, wall_time_seconds: float) -> CellResult:
        """Runs the cell to its end, or until its time is up.

        Raises:
            Exception: the one that answering a host call raised.
        """
        start_seconds = time.monotonic()
        self._runs_code = True
        self._thread.start()
        try:
            await asyncio.wait({self._finished}, timeout=wall_time_seconds)
            if not self._finished.done():
                self.kill()
                await asyncio.wait({self._finished}, timeout=_GRACE_SECONDS)
                return CellResult(
                    event_pb2.CODE_OUTCOME_DEADLINE,
                    "Deadline",
                    f"the block ran longer than {wall_time_seconds:.3g} s and was killed",
                    variables=VariablesState.LOST,
                    wall_time_seconds=time.monotonic() - start_seconds,
                )
            return self._finished.result()
        finally:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            self._output.end()

    async def pass_output_on(self, on_output: OutputHandler) -> None:
        """Passes on what the cell writes, as it writes it, until it has ended."""
        await self._output.pass_on(on_output)

    def kill(self) -> None:
        """Makes the code stop, as far as a thread can be made to."""
        with self._lock:
            if self._killed or not self._runs_code:
                return
            self._killed = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_CellKilled)
            )
        for call in self._calls:
            call.cancel()

    def host_submit(self, function: str, *args: object, **kwargs: object) -> HostFuture:
        """Makes a host call without waiting for its answer, on the cell's thread."""
        arguments = json.dumps({"args": args, "kwargs": kwargs})
        future: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._start_call, function, arguments, future)
        return HostFuture(future)

    def _start_call(self, function: str, arguments: str, future: concurrent.futures.Future[str]) -> None:
        if self._finished.done():
            future.cancel()
            return
        task = self._loop.create_task(self._serve_call(function, arguments, future))
        self._calls.add(task)

    async def _serve_call(self, function: str, arguments: str, future: concurrent.futures.Future[str]) -> None:
        try:
            await self._output.drain()  # what was written before the call is told before it
            future.set_result(await self._answer(function, arguments))
        except asyncio.CancelledError:
            future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the cell is waited for
            future.cancel()
            if not self._finished.done():
                self._finished.set_exception(error)
            self.kill()

    def _work(self) -> None:
        start_seconds, start_cpu_seconds = time.monotonic(), time.thread_time()
        try:
            result = self._run_code()
            with self._lock:
                self._runs_code = False
            if self._killed:
                time.sleep(_GRACE_SECONDS)  # the exception is on its way; it must not hit what comes after
        except _CellKilled:
            result = {"outcome": event_pb2.CODE_OUTCOME_CANCELLED}
        result["wall_time_seconds"] = time.monotonic() - start_seconds
        result["cpu_time_seconds"] = time.thread_time() - start_cpu_seconds
        result["output_dropped_bytes"] = self._output.dropped_bytes
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish, CellResult(**result))

    def _finish(self, result: CellResult) -> None:
        if not self._finished.done():
            self._finished.set_result(result)

    def _run_code(self) -> dict[str, Any]:
        with thread_streams.redirected(self._output.write_stdout, self._output.write_stderr):
            result = self._run_cell()
            try:
                result["after_cell"] = self._namespace.after_cell()
            except Exception as error:  # noqa: BLE001 - it is told to whoever reads the result
                result["after_cell_error"] = f"{type(error).__name__}: {error}"
        return result

    def _run_cell(self) -> dict[str, Any]:
        try:
            self._namespace.run(self._code, self._name)
        except StopCell:
            pass
        except _CellKilled:
            raise
        except _OutputLimitReached as error:
            return {
                "outcome": event_pb2.CODE_OUTCOME_OUTPUT_LIMIT,
                "error_type": "OutputLimit",
                "error_message": str(error),
            }
        except SystemExit as error:
            return _failure(event_pb2.CODE_OUTCOME_EXITED, error)
        except MemoryError as error:
            return _failure(event_pb2.CODE_OUTCOME_OUT_OF_MEMORY, error)
        except BaseException as error:  # noqa: BLE001 - whatever the code raises is a result
            return _failure(event_pb2.CODE_OUTCOME_EXCEPTION, error)
        return {"outcome": event_pb2.CODE_OUTCOME_OK}


class HostFuture:
    """What `host_submit` returns to the code."""

    def __init__(self, future: concurrent.futures.Future[str]) -> None:
        self._future = future

    def done(self) -> bool:
        """Tells whether the answer is there."""
        return self._future.done()

    def result(self) -> object:
        """Waits for the answer and returns it.

        Raises:
            GuestHostCallError: the call failed.
        """
        try:
            answer = json.loads(self._future.result())
        except concurrent.futures.CancelledError:
            raise _CellKilled from None
        if "error" in answer:
            raise GuestHostCallError(*answer["error"])
        return answer["value"]


class _Output:
    """What a cell writes, on its way from the cell's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_bytes: int) -> None:
        self._loop = loop
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._parts: list[tuple[event_pb2.OutputStream.ValueType, str]] = []
        self._lock = threading.Lock()
        self._written = asyncio.Event()
        self._is_waking = False
        self._draining = asyncio.Lock()
        self._ended = False
        self._handler: OutputHandler | None = None
        self.dropped_bytes = 0

    def write_stdout(self, text: str) -> None:
        self._write(event_pb2.OUTPUT_STREAM_STDOUT, text)

    def write_stderr(self, text: str) -> None:
        self._write(event_pb2.OUTPUT_STREAM_STDERR, text)

    def _write(self, stream: event_pb2.OutputStream.ValueType, text: str) -> None:
        if self._ended:
            raise _CellKilled
        encoded = text.encode(errors="replace")
        room = self._limit_bytes - self._used_bytes
        if len(encoded) > room:
            text = encoded[:room].decode(errors="ignore")
            self.dropped_bytes += len(encoded) - room
        self._used_bytes += min(len(encoded), room)
        with self._lock:
            self._parts.append((stream, text))
            wakes = not self._is_waking and text.endswith("\n")
            self._is_waking = self._is_waking or wakes
        if wakes:  # as a terminal, line by line; the rest is passed on when the cell ends or calls the host
            self._loop.call_soon_threadsafe(self._written.set)
        if len(encoded) > room:
            raise _OutputLimitReached(f"the block wrote more than {self._limit_bytes:,} bytes and was stopped")

    def end(self) -> None:
        self._ended = True
        self._written.set()

    async def pass_on(self, handler: OutputHandler) -> None:
        self._handler = handler
        while not self._ended:
            await self._written.wait()
            self._written.clear()
            await self.drain()
        await self.drain()

    async def drain(self) -> None:
        """Passes on what is there."""
        async with self._draining:
            with self._lock:
                parts, self._parts = self._parts, []
                self._is_waking = False
            joined: list[tuple[event_pb2.OutputStream.ValueType, list[str]]] = []
            for stream, text in parts:
                if not joined or joined[-1][0] != stream:
                    joined.append((stream, []))
                joined[-1][1].append(text)
            for stream, texts in joined:
                text = "".join(texts)
                for start in range(0, len(text), _MAX_OUTPUT_PART_CHARS):
                    if self._handler is not None:
                        await self._handler(stream, text[start : start + _MAX_OUTPUT_PART_CHARS])


def _failure(outcome: event_pb2.CodeOutcome.ValueType, error: BaseException) -> dict[str, Any]:
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - the code's own __str__
        message = f"(no text: {type(broken).__name__})"
    return {
        "outcome": outcome,
        "error_type": type(error).__name__,
        "error_message": message,
        "traceback": format_error(error),
    }
