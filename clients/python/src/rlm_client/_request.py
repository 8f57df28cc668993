"""The request of a completion, without its contexts."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_client._answer_types import AnswerType
    from rlm_client._conversations import KeepConversation
    from rlm_client._files import ReturnFiles
    from rlm_client._options import Compaction, Limits, Sampling
    from rlm_client._prompts import Prompts
    from rlm_client._tools import Tool


def build_request(
    query: str,
    *,
    model: str | None,
    sub_model: str | None,
    child_models: Sequence[str],
    limits: Limits | None,
    sampling: Sampling | None,
    sub_sampling: Sampling | None,
    prompts: Prompts | None,
    direct_answer_allowed: bool,
    compaction: Compaction | None,
    answer_at_limit: bool | None,
    tools: Sequence[Tool],
    cache_subcalls: bool,
    seed: int | None,
    answer_type: AnswerType | None,
    look_required: bool | None,
    request_id: str | None,
    detached: bool,
    labels: Mapping[str, str] | None,
    return_files: ReturnFiles | None,
    conversation: KeepConversation | None,
) -> pb.CompleteRequest:
    """Returns the request of a completion; its contexts are to be added."""
    request = pb.CompleteRequest(
        query=query,
        model=model or "",
        sub_model=sub_model or "",
        child_models=child_models,
        limits=limits.to_proto() if limits is not None else None,
        sampling=sampling.to_proto() if sampling is not None else None,
        sub_sampling=sub_sampling.to_proto() if sub_sampling is not None else None,
        prompts=prompts.to_proto() if prompts is not None else None,
        direct_answer_allowed=direct_answer_allowed,
        compaction=compaction.to_proto() if compaction is not None else None,
        answer_at_limit=answer_at_limit,
        tools=[tool.to_proto() for tool in tools],
        cache_subcalls=cache_subcalls,
        seed=seed,
        answer_schema=answer_type.schema_json if answer_type is not None else "",
        look_required=look_required,
        request_id=request_id or uuid.uuid4().hex,
        detached=detached,
        labels=dict(labels or {}),
        return_files=return_files.to_proto() if return_files is not None else None,
    )
    if conversation is not None:
        conversation.add_to(request)
    return request
