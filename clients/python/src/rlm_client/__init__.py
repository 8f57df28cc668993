"""Python client of RLM Server: `Client`, and `AsyncClient` for asyncio.

from rlm_client import Client

with Client("localhost:50051") as client:
print(client.completion(Path("book.txt"), "Who dies first?").answer)
"""

from rlm_api.rlm.v1.event_pb2 import Event

from rlm_client._answer_types import JsonSchema
from rlm_client._async import AsyncClient
from rlm_client._async_conversation import AsyncConversation
from rlm_client._async_stream import AsyncEventStream
from rlm_client._completion import Completion, FinishReason, Models
from rlm_client._context import Context, Part, PreparedContext, prepare
from rlm_client._conversations import ConversationInfo, KeepConversation, Variables
from rlm_client._directory import Directory, SkippedFile, read_directory
from rlm_client._errors import (
    AccessError,
    AlreadyExistsError,
    AnswerTypeError,
    AnswerValueError,
    CallCancelledError,
    CallDeadlineError,
    CompletionParkedError,
    ContextError,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    NotImplementedByServerError,
    OverloadedError,
    RlmError,
    SequenceOutOfRangeError,
    ServerFailedError,
    StatusError,
    StreamEndedError,
    ToolDefinitionError,
    UnavailableError,
    WrongStateError,
)
from rlm_client._files import ReturnedFile, ReturnFiles
from rlm_client._image import Image
from rlm_client._options import Compaction, Limits, Sampling
from rlm_client._prompts import Prompts, PromptSets
from rlm_client._stored import CompletionState, StoredCompletion
from rlm_client._sync import Client
from rlm_client._sync_conversation import Conversation
from rlm_client._sync_stream import EventStream
from rlm_client._tools import Tool

__all__ = [
    "AccessError",
    "AlreadyExistsError",
    "AnswerTypeError",
    "AnswerValueError",
    "AsyncClient",
    "AsyncConversation",
    "AsyncEventStream",
    "CallCancelledError",
    "CallDeadlineError",
    "Client",
    "Compaction",
    "Completion",
    "CompletionParkedError",
    "CompletionState",
    "Context",
    "ContextError",
    "Conversation",
    "ConversationInfo",
    "Directory",
    "Event",
    "EventStream",
    "FieldViolation",
    "FinishReason",
    "Image",
    "InvalidRequestError",
    "JsonSchema",
    "KeepConversation",
    "Limits",
    "Models",
    "NotFoundError",
    "NotImplementedByServerError",
    "OverloadedError",
    "Part",
    "PreparedContext",
    "PromptSets",
    "Prompts",
    "ReturnFiles",
    "ReturnedFile",
    "RlmError",
    "Sampling",
    "SequenceOutOfRangeError",
    "ServerFailedError",
    "SkippedFile",
    "StatusError",
    "StoredCompletion",
    "StreamEndedError",
    "Tool",
    "ToolDefinitionError",
    "UnavailableError",
    "Variables",
    "WrongStateError",
    "prepare",
    "read_directory",
]
