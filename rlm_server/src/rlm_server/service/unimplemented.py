"""What the contract has and this server does not serve yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc
from rlm_common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_api.rlm.v1 import completion_service_pb2 as pb

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""The context of an RPC."""

_SCALAR_FIELDS = (
    "conversation_id",
    "keep_conversation",
    "direct_answer_allowed",
)


def not_implemented(feature: str) -> ServiceError:
    """Returns the error for a field or RPC that is not served yet."""
    return ServiceError(
        grpc.StatusCode.UNIMPLEMENTED,
        "NOT_IMPLEMENTED",
        f"{feature} is in the contract, but this server does not serve it yet; leave it out",
        metadata={"feature": feature},
    )


class UnimplementedRpcs(pb_grpc.CompletionServiceServicer):
    """The RPCs that are not served yet: each fails with UNIMPLEMENTED and says which it is."""

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Context
    ) -> pb.ListConversationsResponse:
        """Is not served yet."""
        raise not_implemented("ListConversations")

    async def ListVariables(self, request: pb.ListVariablesRequest, context: Context) -> pb.ListVariablesResponse:
        """Is not served yet."""
        raise not_implemented("ListVariables")

    async def CloseConversation(
        self, request: pb.CloseConversationRequest, context: Context
    ) -> pb.CloseConversationResponse:
        """Is not served yet."""
        raise not_implemented("CloseConversation")


async def _refuse_stream(rpc: str) -> AsyncIterator[Any]:
    if rpc:
        raise not_implemented(rpc)
    yield None  # is never reached, but makes this a generator


def refuse_unimplemented_fields(request: pb.CompleteRequest) -> None:
    """Refuses a request that asks for what is not served yet, so that nothing is silently ignored.

    Raises:
        ServiceError: UNIMPLEMENTED, naming the field.
    """
    for name in _SCALAR_FIELDS:
        if getattr(request, name):
            raise not_implemented(name)
    for index, part in enumerate(request.contexts):
        if part.WhichOneof("value") == "image":
            raise not_implemented(f"contexts[{index}].image")
