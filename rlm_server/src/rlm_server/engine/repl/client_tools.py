"""Tools that the client serves: a call goes out as an event, and the client's answer comes back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports.host_calls import HostCallError
from rlm_server.engine.text import preview

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from rlm_server.engine.events import EventStream
    from rlm_server.engine.ports.clock import Clock
    from rlm_server.engine.repl.tools import Tool

_MAX_ARGUMENTS_CHARS = 4 * 1024 * 1024
_MAX_ERROR_CHARS = 2000


class NoSuchCallError(Exception):
    """An answer to a call that is not open; the message says why it is not."""


class ToolCaller(Protocol):
    """Has the client run tools."""

    async def call(self, node_id: str, call_id: str, tool: Tool, arguments: Mapping[str, object]) -> object:
        """Has the client run a tool; returns the tool's value.

        Raises:
            HostCallError: the arguments are wrong, or the tool failed, or the client did not answer.
        """

    async def end_calls(self, node_id: str, cause: str) -> None:
        """Tells the end of the calls that are open in a node and below it. Their tasks must be gone already."""


@dataclass
class _OpenCall:
    node_id: str
    start_seconds: float
    answer: asyncio.Future[str]


async def _keep_nothing(call_id: str, answer: object | HostCallError) -> None:
    """Does without a record."""


class ClientTools:
    """The calls of one completion to tools that its client serves.

    Args:
        events: tells the client of them.
        clock: tells the time.
    """

    def __init__(self, events: EventStream, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        self._open: dict[str, _OpenCall] = {}
        self._given_up: set[str] = set()
        self._answered: set[str] = set()
        self._gone = ""
        self._has_open = asyncio.Event()

    async def call(
        self,
        node_id: str,
        call_id: str,
        tool: Tool,
        arguments: Mapping[str, object],
        *,
        keep: Callable[[str, object | HostCallError], Awaitable[None]] = _keep_nothing,
    ) -> object:
        """Has the client run a tool; returns the tool's value.

        Args:
            node_id: the node whose code calls.
            call_id: names the call.
            tool: is called.
            arguments: by parameter.
            keep: is given the client's answer by the call's id, and waited for, before the call is told to be over.

        Raises:
            HostCallError: the arguments are wrong, or the tool failed, or the client did not answer.
        """
        problem = tool.argument_problem(arguments)
        arguments_json = json.dumps(arguments)
        if not problem and len(arguments_json) > _MAX_ARGUMENTS_CHARS:
            problem = f"the arguments are over {_MAX_ARGUMENTS_CHARS:,} characters as JSON"
        if problem:
            raise HostCallError("bad_arguments", f"{tool.name}(): {problem}")
        if self._gone:
            raise HostCallError("client_gone", self._gone)
        call = _OpenCall(node_id, self._clock.monotonic_seconds(), asyncio.get_running_loop().create_future())
        self._open[call_id] = call
        self._has_open.set()
        timeout = to_duration(tool.timeout_seconds)
        await self._events.emit(
            node_id,
            event_pb2.ToolCall(call_id=call_id, name=tool.name, arguments_json=arguments_json, timeout=timeout),
        )
        # A call whose task is cancelled stays open: its end is told by `end_calls`, with the block that made it.
        await asyncio.wait({call.answer}, timeout=tool.timeout_seconds)
        if not call.answer.done():
            message = f"{tool.name} gave no answer within {tool.timeout_seconds:g} s"
            call.answer.set_exception(HostCallError("timeout", message))
            self._given_up.add(call_id)
        try:
            value_json = call.answer.result()
        except HostCallError as error:
            await keep(call_id, error)
            await self._finish(call_id, error=error.message)
            raise
        value: object = json.loads(value_json)
        await keep(call_id, value)
        await self._finish(call_id, result_chars=len(value_json))
        return value

    async def tell_again(self, node_id: str, call_id: str, answer: object | HostCallError) -> None:
        """Tells the end of a call that an earlier run has made, in case that run did not come to tell it."""
        error = answer.message if isinstance(answer, HostCallError) else ""
        result_chars = 0 if error else len(json.dumps(answer))
        await self._events.emit(
            node_id, event_pb2.ToolCallFinished(call_id=call_id, error=error, result_chars=result_chars)
        )

    def answer(self, call_id: str, value_json: str) -> None:
        """Takes the value that a tool returned, which is JSON: that is checked where it comes in.

        Raises:
            NoSuchCallError: there is no such call, or it was answered before.
        """
        call = self._take(call_id)
        if call is not None:
            call.answer.set_result(value_json)

    def fail(self, call_id: str, message: str) -> None:
        """Takes the error with which a tool failed.

        Raises:
            NoSuchCallError: there is no such call, or it was answered before.
        """
        call = self._take(call_id)
        if call is not None:
            call.answer.set_exception(HostCallError("tool_failed", preview(message, _MAX_ERROR_CHARS)))

    async def open_call_ids(self) -> list[str]:
        """Waits until calls are open, and returns their ids."""
        await self._has_open.wait()
        return list(self._open)

    def client_is_gone(self, message: str) -> None:
        """Fails all calls, those to come as well, as nobody will answer them."""
        self._gone = message
        for call in self._open.values():
            if not call.answer.done():
                call.answer.set_exception(HostCallError("client_gone", message))

    def client_is_back(self) -> None:
        """Takes note that a client serves the tools, perhaps after one went away."""
        self._gone = ""

    async def end_calls(self, node_id: str, cause: str) -> None:
        """Tells the end of the calls that are open in a node and below it. Their tasks must be gone already."""
        for call_id, call in list(self._open.items()):
            if call.node_id == node_id or call.node_id.startswith(f"{node_id}."):
                await self._finish(call_id, error=cause)

    def _take(self, call_id: str) -> _OpenCall | None:
        """Returns an open call that has no answer yet, or None if it ended while its answer was on the way."""
        call = self._open.get(call_id)
        if call is None and call_id in self._given_up:
            return None
        if call_id in self._answered:
            raise NoSuchCallError(f"the call {preview(call_id, 100)!r} has been answered")
        if call is None:
            raise NoSuchCallError(f"there was no call {preview(call_id, 100)!r}")
        if call.answer.done():
            return None  # the client is gone
        self._answered.add(call_id)
        return call

    async def _finish(self, call_id: str, *, error: str = "", result_chars: int = 0) -> None:
        call = self._open.pop(call_id)
        if not self._open:
            self._has_open.clear()
        if call_id not in self._answered:
            self._given_up.add(call_id)
        if call.answer.done():
            call.answer.exception()  # so that asyncio does not miss somebody to look at it
        else:
            call.answer.cancel()
        await self._events.emit(
            call.node_id,
            event_pb2.ToolCallFinished(
                call_id=call_id,
                error=error,
                result_chars=result_chars,
                wall_time=to_duration(self._clock.monotonic_seconds() - call.start_seconds),
            ),
        )
