"""The client's side of a `CompleteWithTools` stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from rlm_common.errors import ServiceError, invalid_field

from rlm_server.engine.client_tools import NoSuchCallError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_api.rlm.v1 import completion_service_pb2 as pb

    from rlm_server.engine.client_tools import ClientTools

_GONE = "the client has closed its side of the stream and serves tools no longer"


class ToolStream:
    """What a client that serves tools sends: the request, then results.

    Args:
        requests: the messages.
    """

    def __init__(self, requests: AsyncIterator[pb.CompleteWithToolsRequest]) -> None:
        self._requests = requests

    async def start(self) -> pb.CompleteRequest:
        """Returns the request.

        Raises:
            ServiceError: INVALID_ARGUMENT: it is not what comes first.
        """
        first = await anext(self._requests, None)
        if first is None or first.WhichOneof("request") != "start":
            raise invalid_field("start", "must come in the first message, before any result")
        return first.start

    async def take_results(self, tools: ClientTools) -> None:
        """Takes results until the client closes its side.

        Raises:
            ServiceError: INVALID_ARGUMENT for a wrong message, FAILED_PRECONDITION for a result that nobody waits for.
        """
        async for message in self._requests:
            if message.WhichOneof("request") != "tool_result":
                raise invalid_field("tool_result", "must be set in each message but the first")
            result = message.tool_result
            try:
                if result.WhichOneof("result") == "value_json":
                    tools.answer(result.call_id, result.value_json)
                elif result.WhichOneof("result") == "error":
                    tools.fail(result.call_id, result.error)
                else:
                    raise invalid_field("tool_result.result", "is empty; set value_json or error")
            except ValueError as error:
                raise invalid_field("tool_result.value_json", f"is not JSON: {error}") from None
            except NoSuchCallError as error:
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "TOOL_CALL_NOT_OPEN",
                    f"tool_result cannot be taken: {error}",
                    metadata={"call_id": result.call_id},
                ) from None
        tools.client_is_gone(_GONE)
