"""A `client_tools.ToolCaller` that records what tools of the client answer, and answers so again without a call."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rlm_server.engine.ports import HostCallError
from rlm_server.journal.recorder import never, repeats_finished_work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlm_server.engine.client_tools import ToolCaller
    from rlm_server.engine.tools import Tool
    from rlm_server.journal.recorder import Recorder


class JournaledTools:
    """Records the tool calls of one completion.

    Args:
        tools: makes the calls.
        recorder: the completion's.
    """

    def __init__(self, tools: ToolCaller, recorder: Recorder) -> None:
        self._tools = tools
        self._recorder = recorder

    async def call(self, node_id: str, call_id: str, tool: Tool, arguments: Mapping[str, object]) -> object:
        """Has the client run a tool; see `ToolCaller.call`."""
        key = f"t/{call_id}"
        if (data := await self._recorder.recorded(key)) is not None:
            record = json.loads(data)
            if "error" in record:
                raise HostCallError(*record["error"])
            return record["value"]
        if repeats_finished_work():
            await never()
        try:
            value = await self._tools.call(node_id, call_id, tool, arguments)
        except HostCallError as error:
            await self._recorder.record(key, json.dumps({"error": [error.type_name, error.message]}).encode())
            raise
        await self._recorder.record(key, json.dumps({"value": value}).encode())
        return value

    async def end_calls(self, node_id: str, cause: str) -> None:
        """Tells the end of open calls; see `ToolCaller.end_calls`."""
        await self._tools.end_calls(node_id, cause)
