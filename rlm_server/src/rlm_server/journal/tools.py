"""A `client_tools.ToolCaller` that records what tools of the client answer, and answers so again without a call."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rlm_server.engine.ports.host_calls import HostCallError
from rlm_server.journal.recorder import never, repeats_finished_work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlm_server.engine.repl.client_tools import ClientTools
    from rlm_server.engine.repl.tools import Tool
    from rlm_server.journal.recorder import Recorder


class JournaledTools:
    """Records the tool calls of one completion.

    An answer is recorded before the client is told that the call is over: until then it holds the answer ready, should
    the server that runs the completion die.

    Args:
        tools: makes the calls.
        recorder: the completion's.
    """

    def __init__(self, tools: ClientTools, recorder: Recorder) -> None:
        self._tools = tools
        self._recorder = recorder
        self._recorded: set[str] = set()

    async def call(self, node_id: str, call_id: str, tool: Tool, arguments: Mapping[str, object]) -> object:
        """Has the client run a tool; see `ToolCaller.call`."""
        if (data := await self._recorder.recorded(_key(call_id))) is not None:
            record = json.loads(data)
            answer = HostCallError(*record["error"]) if "error" in record else record["value"]
            await self._tools.tell_again(node_id, call_id, answer)
            if isinstance(answer, HostCallError):
                raise answer
            return answer
        if repeats_finished_work():
            await never()
        try:
            return await self._tools.call(node_id, call_id, tool, arguments, keep=self._record)
        except HostCallError as error:
            if call_id not in self._recorded:  # it did not get as far as the client
                await self._record(call_id, error)
            raise

    async def end_calls(self, node_id: str, cause: str) -> None:
        """Tells the end of open calls; see `ToolCaller.end_calls`."""
        await self._tools.end_calls(node_id, cause)

    async def _record(self, call_id: str, answer: object | HostCallError) -> None:
        self._recorded.add(call_id)
        record: dict[str, object] = {"value": answer}
        if isinstance(answer, HostCallError):
            record = {"error": [answer.type_name, answer.message]}
        await self._recorder.record(_key(call_id), json.dumps(record).encode())


def _key(call_id: str) -> str:
    return f"t/{call_id}"
