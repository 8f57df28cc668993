"""A block that an earlier run has recorded, gone through once more, without a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, cast

from rlm_server.engine.ports.host_calls import HostCallError
from rlm_server.journal.recorder import context_of_repeated_work

if TYPE_CHECKING:
    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.ports.executors import SessionSpec
    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.ports.sessions import OutputHandler
    from rlm_server.journal.recorder import Recorder
    from rlm_server.journal.records import CellRecord

_log = logging.getLogger(__name__)

_REPEAT_SECONDS = 60.0


async def repeat_block(record: CellRecord, spec: SessionSpec, recorder: Recorder, on_output: OutputHandler) -> None:
    """Lets the engine go through a block once more: its sub-calls, then its output.

    Args:
        record: the block's.
        spec: says who answers sub-calls.
        recorder: the completion's, which has their replies.
        on_output: gets what the block wrote.
    """
    context = context_of_repeated_work()
    given: list[asyncio.Task[object]] = []
    abandoned: list[asyncio.Task[object]] = []
    by_position: dict[int, asyncio.Task[object]] = {}
    for one in record.calls:
        waited_for = [task for position, task in by_position.items() if position < one.asked_after]
        await asyncio.gather(*waited_for, return_exceptions=True)
        task = asyncio.get_running_loop().create_task(_answer(spec, one.call), context=context)
        if one.given is None:
            abandoned.append(task)
        else:
            given.append(task)
            by_position[one.given] = task
    try:
        if given:
            done, late = await asyncio.wait(given, timeout=_REPEAT_SECONDS)
            for task in done:
                task.result()
            if late:
                _log.error("node %s of %s: a sub-call does not end", spec.node_id, recorder.completion_id)
        if abandoned:
            await recorder.until_quiet()
    finally:
        for task in (*given, *abandoned):
            task.cancel()
        await asyncio.gather(*given, *abandoned, return_exceptions=True)
    with recorder.repeating(spec.node_id):
        for stream, text in record.output:
            await on_output(cast("event_pb2.OutputStream.ValueType", stream), text)


async def _answer(spec: SessionSpec, call: HostCall) -> object:
    with contextlib.suppress(HostCallError):
        return await spec.on_host_call(call)
    return None
