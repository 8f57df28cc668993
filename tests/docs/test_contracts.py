"""docs/contracts.md and docs/sandbox.md agree with the contracts, and with what the servers do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as rlm
from rlm_api.rlm.v1 import error_reason_pb2 as rlm_reasons
from rlm_api.rlm.v1 import event_pb2
from rlm_api.sandbox.v1 import error_reason_pb2 as sandbox_reasons
from rlm_api.sandbox.v1 import execute_service_pb2 as sandbox

from tests.support.documents import ROOT, tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

PAGE = ROOT / "docs" / "contracts.md"


def names(enum: EnumTypeWrapper[Any], prefix: str) -> set[str]:
    """Returns the values of an enum that are sent, without the prefix."""
    return {name.removeprefix(prefix) for name in enum.keys() if not name.endswith("_UNSPECIFIED")}  # noqa: SIM118


def first_cells(heading: str, number: int = 0) -> set[str]:
    """Returns what a table lists; a cell may have several names."""
    return {name for row in list(tables(PAGE, heading))[number][1:] for name in row[0].split(", ")}


def test_all_events_are_there() -> None:
    assert first_cells("Events") == {field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields}


def test_all_finish_reasons_are_there() -> None:
    assert first_cells("Finish reasons") == names(event_pb2.FinishReason, "FINISH_REASON_")


def test_all_warnings_are_there() -> None:
    assert first_cells("Warnings") == names(event_pb2.WarningCode, "WARNING_CODE_")


def test_all_outcomes_are_there() -> None:
    listed = {row[0] for row in next(tables(ROOT / "docs" / "sandbox.md", "Outcomes"))[1:]}
    assert listed == names(sandbox.Outcome, "OUTCOME_")


@pytest.mark.parametrize(
    ("number", "enum", "proto"),
    [
        (0, rlm_reasons.ErrorReason, "rlm/v1/error_reason.proto"),
        (1, sandbox_reasons.ErrorReason, "sandbox/v1/error_reason.proto"),
    ],
)
def test_all_error_reasons_are_there_with_their_status(number: int, enum: EnumTypeWrapper[Any], proto: str) -> None:
    listed = {row[0]: row[1] for row in list(tables(PAGE, "Errors"))[number][1:]}
    assert set(listed) == names(enum, "ERROR_REASON_")
    source = (ROOT / "proto" / proto).read_text(encoding="utf-8")
    for name, status in re.findall(r"// ([A-Z_]+): [^;]*?  ERROR_REASON_(\w+) =", source, re.DOTALL):
        assert listed[status] == name


def test_what_a_failed_sub_call_may_say_is_there() -> None:
    from rlm_server.engine.ports.models import ModelErrorKind
    from rlm_server.engine.subcalls.outcome import FINISH_KINDS

    subcalls = ROOT / "rlm_server/src/rlm_server/engine/subcalls"
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(subcalls.glob("*.py")))
    literals = set(re.findall(r'HostCallError\("(\w+)"|kind="(\w+)"|(?:failure=|, )\("(\w+)"', source))
    kinds = {name for found in literals for name in found if name}
    kinds |= set(FINISH_KINDS.values()) | {kind.value for kind in ModelErrorKind}
    assert first_cells("Failed sub-calls") == kinds


class Method:
    """An RPC, and what the page says of it."""

    def __init__(self, service: ServiceDescriptor, method: MethodDescriptor, *, served: bool) -> None:
        self.path = f"/{service.full_name}/{method.name}"
        self.client_streams = method.client_streaming
        self.server_streams = method.server_streaming
        self.served = served
        self.on_sandbox = service.full_name.startswith("sandbox.")

    def __str__(self) -> str:
        return self.path

    def call(self, channel: grpc.Channel) -> grpc.StatusCode:
        """Calls it with an empty request, and returns how that went."""
        kind = ("stream" if self.client_streams else "unary") + "_" + ("stream" if self.server_streams else "unary")
        call = getattr(channel, kind)(self.path)
        request = iter([b""]) if self.client_streams else b""
        try:
            response = call(request, timeout=30)
            if self.server_streams:
                list(response)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def methods() -> Iterator[Method]:
    services = (
        rlm.DESCRIPTOR.services_by_name["CompletionService"],
        sandbox.DESCRIPTOR.services_by_name["ExecuteService"],
    )
    for service, table in zip(services, tables(PAGE, "RPCs"), strict=True):
        listed = {row[0]: row[1] for row in table[1:]}
        assert set(listed) == {method.name for method in service.methods}
        assert set(listed.values()) <= {"yes", "not yet"}
        for method in service.methods:
            yield Method(service, method, served=listed[method.name] == "yes")


@pytest.mark.parametrize("method", list(methods()), ids=str)
def test_an_rpc_is_served_exactly_if_the_page_says_so(method: Method, servers: tuple[str, str]) -> None:
    with grpc.insecure_channel(servers[1] if method.on_sandbox else servers[0]) as channel:
        code = method.call(channel)
    assert (code is not grpc.StatusCode.UNIMPLEMENTED) is method.served
