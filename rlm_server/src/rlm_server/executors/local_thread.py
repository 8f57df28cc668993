"""One cell on a thread: its output, its host calls, and how it is made to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.ports.sessions import CellResult, VariablesState
from rlm_server.executors import thread_streams
from rlm_server.executors.local_kill import MAX_KILLS, CellKilled, KillableRegion
from rlm_server.executors.local_output import CellOutput, OutputLimitReached
from rlm_server.executors.namespace import GuestHostCallError, Namespace, StopCell, format_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from rlm_server.engine.ports.sessions import OutputHandler

_log = logging.getLogger(__name__)

_GRACE_SECONDS = 0.5


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
        self._output = CellOutput(self._loop, output_bytes)
        self._calls: set[asyncio.Task[str]] = set()
        self._is_over = False
        self._region = KillableRegion()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    async def run(self, wall_time_seconds: float) -> CellResult:
        """Runs the cell to its end, or until its time is up.

        Raises:
            Exception: the one that answering a host call raised.
        """
        start_seconds = time.monotonic()
        self._thread.start()
        try:
            await asyncio.wait({self._finished}, timeout=wall_time_seconds)
            if not self._finished.done() and self.kill():
                await asyncio.wait({self._finished}, timeout=_GRACE_SECONDS)
                return CellResult(
                    event_pb2.CODE_OUTCOME_DEADLINE,
                    "Deadline",
                    f"the block ran longer than {wall_time_seconds:.3g} s and was killed",
                    variables=VariablesState.LOST,
                    wall_time_seconds=time.monotonic() - start_seconds,
                )
            return await self._finished
        finally:
            self._is_over = True
            await self._cancel_calls()
            self._output.end()

    async def pass_output_on(self, on_output: OutputHandler) -> None:
        """Passes on what the cell writes, as it writes it, until it has ended."""
        await self._output.pass_on(on_output)

    def kill(self) -> bool:
        """Makes the code stop, as far as a thread can be made to.

        Returns:
            Whether the cell is killed. If not, the code has ended before and its result is on its way.
        """
        is_killed = self._region.kill()
        if is_killed:
            self._is_over = True
            for call in self._calls:
                call.cancel()  # the code may wait for it
            self._loop.call_later(_GRACE_SECONDS / MAX_KILLS, self._kill_again, MAX_KILLS - 1)
        return is_killed

    def _kill_again(self, times: int) -> None:
        if times and self._thread.is_alive():
            self._region.kill()
            self._loop.call_later(_GRACE_SECONDS / MAX_KILLS, self._kill_again, times - 1)

    def host_submit(self, function: str, *args: object, **kwargs: object) -> HostFuture:
        """Makes a host call without waiting for its answer, on the cell's thread."""
        arguments = json.dumps({"args": args, "kwargs": kwargs})
        future = HostFuture()
        self._loop.call_soon_threadsafe(self._start_call, function, arguments, future)
        return future

    def _start_call(self, function: str, arguments: str, future: HostFuture) -> None:
        if self._is_over:
            future.cancel()
            return
        task = self._loop.create_task(self._serve_call(function, arguments))
        self._calls.add(task)
        # Not at the end of the task's own code: a task that is cancelled before it starts runs none of that.
        task.add_done_callback(functools.partial(self._end_call, future))

    async def _serve_call(self, function: str, arguments: str) -> str:
        await self._output.drain()  # what was written before the call is told before it
        return await self._answer(function, arguments)

    def _end_call(self, future: HostFuture, call: asyncio.Task[str]) -> None:
        self._calls.discard(call)
        if call.cancelled():
            future.cancel()
        elif (error := call.exception()) is None:
            future.answer(call.result())
        else:
            future.cancel()
            if self._is_over:
                _log.error("answering a host call failed when its cell was over", exc_info=error)
            elif not self._finished.done():
                self._finished.set_exception(error)
                self.kill()

    async def _cancel_calls(self) -> None:
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _work(self) -> None:
        start_seconds, start_cpu_seconds = time.monotonic(), time.thread_time()
        result: dict[str, Any] = {"outcome": event_pb2.CODE_OUTCOME_CANCELLED}
        with (
            thread_streams.redirected(self._output.write_stdout, self._output.write_stderr),
            contextlib.suppress(CellKilled),
        ):
            result = self._region.run(self._run_code)
        result["wall_time_seconds"] = time.monotonic() - start_seconds
        result["cpu_time_seconds"] = time.thread_time() - start_cpu_seconds
        result["output_dropped_bytes"] = self._output.dropped_bytes
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for what was left behind
            self._loop.call_soon_threadsafe(self._finish, CellResult(**result))

    def _finish(self, result: CellResult) -> None:
        if not self._finished.done():
            self._finished.set_result(result)

    def _run_code(self) -> dict[str, Any]:
        result = self._run_cell()
        try:
            result["after_cell"] = self._namespace.after_cell()
        except CellKilled:
            raise
        except BaseException as error:  # noqa: BLE001 - it is told to whoever reads the result
            result["after_cell_error"] = f"{type(error).__name__}: {error}"
        return result

    def _run_cell(self) -> dict[str, Any]:
        try:
            self._namespace.run(self._code, self._name)
        except StopCell:
            pass
        except CellKilled:
            raise
        except OutputLimitReached as error:
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
    """What `host_submit` returns to the code.

    Answers go through a queue since putting and getting are one step each, between which nothing can be raised: a
    thread that is killed leaves no lock behind on which the event loop would hang.
    """

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._waiters: queue.SimpleQueue[asyncio.Future[None]] = queue.SimpleQueue()

    def answer(self, answer_json: str) -> None:
        """Gives the answer, on the event loop."""
        self._answers.put(answer_json)
        self._wake_waiters()

    def cancel(self) -> None:
        """Says that there will be no answer, on the event loop."""
        self._answers.put(None)
        self._wake_waiters()

    def __await__(self) -> Generator[Any, None, object]:
        """Waits on the event loop of the cell's own code."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.put(waiter)
        if not self.done():  # else the answer came before the waiter was there to be woken
            yield from waiter
        return self.result()

    def _wake_waiters(self) -> None:
        while not self._waiters.empty():
            waiter = self._waiters.get()
            with contextlib.suppress(RuntimeError):  # its loop is closed, as it was cancelled and its cell is over
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    def done(self) -> bool:
        """Tells whether the answer is there."""
        return not self._answers.empty()

    def result(self) -> object:
        """Waits for the answer and returns it.

        Raises:
            GuestHostCallError: the call failed.
            CellKilled: the cell is over.
        """
        answer_json = self._answers.get()
        self._answers.put(answer_json)  # for whoever asks again
        if answer_json is None:
            raise CellKilled
        answer = json.loads(answer_json)
        if "error" in answer:
            raise GuestHostCallError(*answer["error"])
        return answer["value"]


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _failure(outcome: event_pb2.CodeOutcome.ValueType, error: BaseException) -> dict[str, Any]:
    try:
        message = str(error)
    except CellKilled:
        raise
    except BaseException as broken:  # noqa: BLE001 - the code's own __str__
        message = f"(no text: {type(broken).__name__})"
    return {
        "outcome": outcome,
        "error_type": type(error).__name__,
        "error_message": message,
        "traceback": format_error(error),
    }
