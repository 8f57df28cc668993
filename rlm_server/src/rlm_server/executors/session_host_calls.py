"""The host calls of one sandbox: each is answered in a task of its own, in however many messages it takes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from rlm_server.engine.ports.host_calls import HostCall, HostCallError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PART_CHARS = 512 * 1024
_LARGE_JSON_CHARS = 1024 * 1024


class HostCalls:
    """The host calls that are under way.

    Args:
        answer: answers one.
    """

    def __init__(self, answer: Callable[[HostCall], Awaitable[object]]) -> None:
        self._answer = answer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._parts: dict[int, list[str]] = {}

    async def take(
        self,
        message: pb.HostCall,
        send: Callable[[pb.HostCallResult], Awaitable[None]],
        fail: Callable[[Exception], None],
    ) -> None:
        """Takes a call, or a part of one, and begins to answer it once it is whole.

        Args:
            message: the call, or the part.
            send: sends a result, or a part of one.
            fail: is told of what is no host call's error.
        """
        parts = self._parts.setdefault(message.call_id, [])
        parts.append(message.arguments_json)
        if message.partial:
            return
        del self._parts[message.call_id]
        # Here and not in the task, so that a call with little to read does not get ahead of one with much.
        call = await _load(message.function, "".join(parts))
        task = self._tasks[message.call_id] = asyncio.create_task(
            self._answer_in_parts(message.call_id, call, send, fail)
        )
        task.add_done_callback(lambda _: self._tasks.pop(message.call_id, None))

    def abandon(self, call_id: int) -> None:
        """Ends a call that nobody waits for any more."""
        self._parts.pop(call_id, None)
        task = self._tasks.get(call_id)
        if task is not None:
            task.cancel()

    async def end(self) -> None:
        """Ends all, so that nothing of a cell that is over goes on behind the next one."""
        self._parts.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer_in_parts(
        self,
        call_id: int,
        call: HostCall,
        send: Callable[[pb.HostCallResult], Awaitable[None]],
        fail: Callable[[Exception], None],
    ) -> None:
        try:
            try:
                value_json = await _dump(await self._answer(call))
            except HostCallError as error:
                failure = pb.HostCallError(type=error.type_name, message=error.message)
                await send(pb.HostCallResult(call_id=call_id, error=failure))
                return
            for start in range(0, len(value_json), _PART_CHARS):
                part = value_json[start : start + _PART_CHARS]
                is_partial = start + _PART_CHARS < len(value_json)
                await send(pb.HostCallResult(call_id=call_id, value_json=part, partial=is_partial))
        except Exception as error:  # noqa: BLE001 - it is raised where the cell is waited for
            fail(error)


async def _load(function: str, text: str) -> HostCall:
    loaded = await asyncio.to_thread(json.loads, text) if len(text) > _LARGE_JSON_CHARS else json.loads(text)
    return HostCall(function, loaded["args"], loaded["kwargs"])


async def _dump(value: object) -> str:
    return await asyncio.to_thread(json.dumps, value) if _text_chars(value) > _LARGE_JSON_CHARS else json.dumps(value)


def _text_chars(value: object) -> int:
    """Returns how much text there is in a value that JSON can express."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_text_chars, value))
    if isinstance(value, dict):
        return sum(map(_text_chars, value.values()))
    return 0
