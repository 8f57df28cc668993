"""The client's side of a `CompleteWithTools` stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc
from rlm_common.errors import ServiceError, invalid_field

from rlm_server.engine.repl.client_tools import NoSuchCallError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_api.rlm.v1 import completion_service_pb2 as pb

    from rlm_server.service.tool_results import ToolResults


class ToolStream:
    """What a client that serves tools sends: the request, or what it goes on with, then results.

    Args:
        requests: the messages.
    """

    def __init__(self, requests: AsyncIterator[pb.CompleteWithToolsRequest]) -> None:
        self._requests = requests

    async def first(self) -> pb.CompleteRequest | pb.ResumeTools:
        """Returns what the stream begins with.

        Raises:
            ServiceError: INVALID_ARGUMENT: it is not what comes first.
        """
        first = await anext(self._requests, None)
        kind = None if first is None else first.WhichOneof("request")
        if first is not None and kind == "start":
            return first.start
        if first is not None and kind == "resume":
            return first.resume
        raise invalid_field("start", "must come in the first message, before any result, or `resume` in its place")

    async def take_results(self, results: ToolResults) -> None:
        """Takes results until there are no more, since the client has closed its side, or the stream has broken.

        Raises:
            ServiceError: INVALID_ARGUMENT for a wrong message, FAILED_PRECONDITION for a result that nobody waits for.
        """
        async for message in self._requests:
            if message.WhichOneof("request") != "tool_result":
                raise invalid_field("tool_result", "must be set in each message but the first")
            _check(message.tool_result)
            try:
                await results.take(message.tool_result)
            except NoSuchCallError as error:
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "TOOL_CALL_NOT_OPEN",
                    f"tool_result cannot be taken: {error}",
                    metadata={"call_id": message.tool_result.call_id},
                ) from None


def _check(result: pb.ToolResult) -> None:
    if result.WhichOneof("result") is None:
        raise invalid_field("tool_result.result", "is empty; set value_json or error")
    if result.WhichOneof("result") == "value_json":
        try:
            json.loads(result.value_json)
        except RecursionError:
            raise invalid_field("tool_result.value_json", "is not usable JSON: it is nested too deeply") from None
        except ValueError as error:
            raise invalid_field("tool_result.value_json", f"is not JSON: {error}") from None
