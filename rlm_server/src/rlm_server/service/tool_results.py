"""The way of tools' results from the client's stream to the run that waits for them, on whichever servers they are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_server.engine.repl.client_tools import NoSuchCallError
from rlm_server.engine.text import preview
from rlm_server.journal.recorded_events import KIND_NUMBERS
from rlm_server.journal.store import StorageUnavailableError
from rlm_server.journal.tool_result_rows import find_tool_results, put_tool_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlm_server.engine.repl.client_tools import ClientTools
    from rlm_server.journal.store import Journal

_log = logging.getLogger(__name__)

_PAGE = 2000
_RETRY_DELAY_SECONDS = 1.0
_POLL_SECONDS = 0.2
_SELDOM_POLL_SECONDS = 2.0
_GONE = "the client has closed its side of the stream and serves tools no longer"


class ToolResults:
    """Takes the results that come on one stream.

    What no call on this server waits for goes into the journal, where the server that runs the completion looks, or
    this one, once it has come to that call again after a crash.

    Args:
        completion_id: the completion's.
        journal: has its events.
        running: returns the tools of a completion, if that runs here.
        is_strict: the stream has begun the completion, and so no result can come too early, or twice.
    """

    def __init__(
        self,
        completion_id: str,
        journal: Journal,
        running: Callable[[str], ClientTools | None],
        *,
        is_strict: bool,
    ) -> None:
        self._completion_id = completion_id
        self._journal = journal
        self._running = running
        self._is_strict = is_strict
        self._told: set[str] = set()
        self._finished: set[str] = set()
        self._sequence = 0

    async def take(self, result: pb.ToolResult) -> None:
        """Takes a result.

        Raises:
            NoSuchCallError: there was no such call, or, on a stream that has begun the completion, it has an answer.
        """
        tools = self._running(self._completion_id)
        if tools is not None:
            try:
                give(tools, result)
            except NoSuchCallError:
                if self._is_strict:
                    raise
            else:
                return
        while True:
            try:
                await self._keep(result)
            except StorageUnavailableError as error:
                _log.warning("a tool's result for completion %s waits: %s", self._completion_id, error)
                await asyncio.sleep(_RETRY_DELAY_SECONDS)
            else:
                return

    def client_is_gone(self) -> None:
        """Takes note that nobody serves the tools any more."""
        tools = self._running(self._completion_id)
        if tools is not None:
            tools.client_is_gone(_GONE)

    async def _keep(self, result: pb.ToolResult) -> None:
        if result.call_id not in self._told:
            await self._read_events()
        if result.call_id not in self._told:
            raise NoSuchCallError(f"there was no call {preview(result.call_id, 100)!r}")
        if result.call_id not in self._finished:
            await put_tool_result(self._journal, self._completion_id, result.call_id, result.SerializeToString())

    async def _read_events(self) -> None:
        kinds = {KIND_NUMBERS["tool_call"], KIND_NUMBERS["tool_call_finished"]}
        while page := await self._journal.events(self._completion_id, self._sequence, limit=_PAGE, kinds=kinds):
            for event in page:
                if event.HasField("tool_call"):
                    self._told.add(event.tool_call.call_id)
                else:
                    self._finished.add(event.tool_call_finished.call_id)
            self._sequence = page[-1].sequence


def give(tools: ClientTools, result: pb.ToolResult) -> None:
    """Gives a result to the call that waits for it.

    Raises:
        NoSuchCallError: there is no such call, or it was answered before.
    """
    if result.WhichOneof("result") == "value_json":
        tools.answer(result.call_id, result.value_json)
    else:
        tools.fail(result.call_id, result.error)


async def bring_results(tools: ClientTools, journal: Journal, completion_id: str, is_near: Callable[[], bool]) -> None:
    """Looks in the journal for results of the calls that are open, for as long as the completion runs here.

    Args:
        tools: the completion's.
        journal: has the results.
        completion_id: the completion's.
        is_near: tells whether the client has its stream with this server, so that it is hardly worth looking.
    """
    while True:
        call_ids = await tools.open_call_ids()
        try:
            for call_id, data in (await find_tool_results(journal, completion_id, call_ids)).items():
                with contextlib.suppress(NoSuchCallError):  # it has ended, or got its result, meanwhile
                    give(tools, pb.ToolResult.FromString(data))
                    _log.debug("tool call %s of completion %s has its result by the journal", call_id, completion_id)
        except StorageUnavailableError as error:
            _log.warning("results of tools for completion %s cannot be read: %s", completion_id, error)
        await asyncio.sleep(_SELDOM_POLL_SECONDS if is_near() else _POLL_SECONDS)
