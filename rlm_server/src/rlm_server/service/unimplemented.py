"""What the contract has and this server does not serve yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from rlm_common.errors import ServiceError

if TYPE_CHECKING:
    from rlm_api.rlm.v1 import completion_service_pb2 as pb

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""The context of an RPC."""

_SCALAR_FIELDS = ("direct_answer_allowed",)


def not_implemented(feature: str) -> ServiceError:
    """Returns the error for a field or RPC that is not served yet."""
    return ServiceError(
        grpc.StatusCode.UNIMPLEMENTED,
        "NOT_IMPLEMENTED",
        f"{feature} is in the contract, but this server does not serve it yet; leave it out",
        metadata={"feature": feature},
    )


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
