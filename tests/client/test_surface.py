"""The package's public face."""

from __future__ import annotations

import importlib.metadata
import inspect

import rlm_client
from rlm_api.rlm.v1 import completion_service_pb2, event_pb2, limits_pb2
from rlm_client import _errors
from rlm_client._channel import SERVICE_CONFIG

PUBLIC_NAMES = """
AccessError AlreadyExistsError AnswerTypeError AnswerValueError AsyncClient AsyncConversation AsyncEventStream
CallCancelledError CallDeadlineError Client Compaction Completion CompletionParkedError CompletionState Context
ContextError Conversation ConversationInfo Directory Event EventStream FieldViolation FinishReason Image
InvalidRequestError JsonSchema KeepConversation Limits Models NotFoundError NotImplementedByServerError
OverloadedError Part PreparedContext PromptSets Prompts ReturnFiles ReturnedFile RlmError Sampling
SequenceOutOfRangeError ServerFailedError
SkippedFile StatusError StoredCompletion StreamEndedError Tool ToolDefinitionError UnavailableError Variables
WrongStateError prepare read_directory
"""


def test_the_exported_names_are_these():
    assert sorted(rlm_client.__all__) == sorted(PUBLIC_NAMES.split())
    assert all(hasattr(rlm_client, name) for name in rlm_client.__all__)


def test_the_error_module_draws_every_error():
    errors = [error for _, error in inspect.getmembers(_errors, inspect.isclass) if issubclass(error, Exception)]
    assert all(error.__name__ in (_errors.__doc__ or "") for error in errors)
    assert all(issubclass(error, rlm_client.RlmError) for error in errors)


def test_the_clients_have_the_same_calls_with_the_same_arguments():
    for name in (
        *("completion", "stream", "models", "prompts", "close", "watch", "get", "completions"),
        *("cancel", "resume", "delete"),
    ):
        sync, asynchronous = getattr(rlm_client.Client, name), getattr(rlm_client.AsyncClient, name)
        assert list(inspect.signature(sync).parameters) == list(inspect.signature(asynchronous).parameters)


def test_every_finish_reason_of_the_contract_is_known():
    names = {name.removeprefix("FINISH_REASON_") for name in event_pb2.FinishReason.keys()}  # noqa: SIM118
    assert names == set(rlm_client.FinishReason)


def test_every_limit_of_the_contract_can_be_given():
    given = set(rlm_client.Limits.__dataclass_fields__)
    contract = {
        *(name for name in limits_pb2.Limits.DESCRIPTOR.fields_by_name if name not in {"wall_time", "cell"}),
        *(f"cell_{name}" for name in limits_pb2.CellLimits.DESCRIPTOR.fields_by_name if name != "wall_time"),
        "wall_time_seconds",
        "cell_wall_time_seconds",
    }
    assert given == contract


def test_only_unary_calls_are_retried():
    service = completion_service_pb2.DESCRIPTOR.services_by_name["CompletionService"]
    for entry in SERVICE_CONFIG["methodConfig"]:
        for method in entry["name"]:
            described = service.methods_by_name[method["method"]]
            assert not described.client_streaming
            assert not described.server_streaming


def test_the_package_needs_neither_server():
    requirements = importlib.metadata.requires("rlm-client") or []
    names = {requirement.partition("=")[0].partition(">")[0] for requirement in requirements}
    assert names == {"grpcio", "grpcio-status", "protobuf", "rlm-api", "typing-extensions"}
