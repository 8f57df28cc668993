"""Serving tool calls while a completion runs: `ToolThreads` for the synchronous client, `ToolTasks` for asyncio's.

A stream that breaks is followed by another. What a tool returned is kept until the server has told that the call is
over, and is sent on the next stream if it has not: no tool is run twice for one call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import json
import queue
import threading
from typing import TYPE_CHECKING, Any

from rlm_api.rlm.v1 import completion_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from rlm_api.rlm.v1 import event_pb2

    from rlm_client._tools import Tool

_MAX_THREADS = 16
_MAX_RESULT_BYTES = 15 * 1024 * 1024


class ToolThreads:
    """Runs tools on threads, and has the client's side of the streams.

    Args:
        tools: those that the client serves.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._functions = _functions(tools)
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[pb.CompleteWithToolsRequest | None] = queue.SimpleQueue()
        self._open: set[str] = set()
        self._results: dict[str, pb.ToolResult] = {}
        self._threads = concurrent.futures.ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="rlm-tool")

    def requests(self, first: pb.CompleteWithToolsRequest) -> Iterator[pb.CompleteWithToolsRequest]:
        """Returns what the client sends on the next stream, until `end_stream` or `close`."""
        with self._lock:
            self._requests = queue.SimpleQueue()
            self._requests.put(first)
            for result in self._results.values():
                self._requests.put(pb.CompleteWithToolsRequest(tool_result=result))
            return iter(self._requests.get, None)

    def take(self, event: event_pb2.Event) -> None:
        """Takes an event; one that calls a tool has it run."""
        kind = event.WhichOneof("kind")
        if kind == "tool_call":
            with self._lock:
                self._open.add(event.tool_call.call_id)
            self._threads.submit(self._run, event.tool_call)
        elif kind == "tool_call_finished":
            with self._lock:
                self._open.discard(event.tool_call_finished.call_id)
                self._results.pop(event.tool_call_finished.call_id, None)
        elif kind == "finished":
            self.close()

    def end_stream(self) -> None:
        """Ends the client's side of a stream that has broken."""
        self._requests.put(None)

    def close(self) -> None:
        """Ends the client's side. Tools that run come to their end, and nobody waits for them."""
        self.end_stream()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, call: event_pb2.ToolCall) -> None:
        try:
            value = self._functions[call.name](**json.loads(call.arguments_json))
            if inspect.isawaitable(value):
                value = asyncio.run(_wait_for(value))
            result = _returned(call.call_id, value)
        except BaseException as error:  # noqa: BLE001 - it is raised in the sandbox; this thread has nobody else to tell
            result = _raised(call.call_id, error)
        with self._lock:
            if call.call_id in self._open:
                self._results[call.call_id] = result
                self._requests.put(pb.CompleteWithToolsRequest(tool_result=result))


class ToolTasks:
    """Runs tools in tasks, those that are not `async` on threads, and has the client's side of the streams.

    Args:
        tools: those that the client serves.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._functions = _functions(tools)
        self._requests: asyncio.Queue[pb.CompleteWithToolsRequest | None] = asyncio.Queue()
        self._results: dict[str, pb.ToolResult] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def requests(self, first: pb.CompleteWithToolsRequest) -> AsyncIterator[pb.CompleteWithToolsRequest]:
        """Returns what the client sends on the next stream, until `end_stream` or `close`."""
        self._requests = asyncio.Queue()
        self._requests.put_nowait(first)
        for result in self._results.values():
            self._requests.put_nowait(pb.CompleteWithToolsRequest(tool_result=result))
        return _until_none(self._requests)

    def take(self, event: event_pb2.Event) -> None:
        """Takes an event; one that calls a tool has it run, one that tells the end of a call stops what still runs."""
        kind = event.WhichOneof("kind")
        if kind == "tool_call":
            self._tasks[event.tool_call.call_id] = asyncio.create_task(self._run(event.tool_call))
        elif kind == "tool_call_finished":
            self._results.pop(event.tool_call_finished.call_id, None)
            task = self._tasks.pop(event.tool_call_finished.call_id, None)
            if task is not None:
                task.cancel()
        elif kind == "finished":
            self.close()

    def end_stream(self) -> None:
        """Ends the client's side of a stream that has broken."""
        self._requests.put_nowait(None)

    def close(self) -> None:
        """Ends the client's side, and the tools that run."""
        self.end_stream()
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _run(self, call: event_pb2.ToolCall) -> None:
        function = self._functions[call.name]
        try:
            arguments = json.loads(call.arguments_json)
            if inspect.iscoroutinefunction(function):
                value = await function(**arguments)
            else:
                value = await asyncio.to_thread(function, **arguments)
                value = await _wait_for(value) if inspect.isawaitable(value) else value
            result = _returned(call.call_id, value)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it is raised in the sandbox
            result = _raised(call.call_id, error)
        self._results[call.call_id] = result
        self._requests.put_nowait(pb.CompleteWithToolsRequest(tool_result=result))


async def _until_none(
    requests: asyncio.Queue[pb.CompleteWithToolsRequest | None],
) -> AsyncIterator[pb.CompleteWithToolsRequest]:
    while (request := await requests.get()) is not None:
        yield request


def _functions(tools: Sequence[Tool]) -> dict[str, Callable[..., Any]]:
    return {tool.name: tool.function for tool in tools if tool.function is not None}


async def _wait_for(value: Any) -> Any:
    return await value


def _returned(call_id: str, value: object) -> pb.ToolResult:
    try:
        value_json = json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"what the tool returned is not what JSON can express: {error}") from None
    if len(value_json) > _MAX_RESULT_BYTES:
        raise ValueError(f"what the tool returned is {len(value_json):,} bytes of JSON, over {_MAX_RESULT_BYTES:,}")
    return pb.ToolResult(call_id=call_id, value_json=value_json)


def _raised(call_id: str, error: BaseException) -> pb.ToolResult:
    text = f"{type(error).__name__}: {error}"
    return pb.ToolResult(call_id=call_id, error=text.encode(errors="replace").decode())
