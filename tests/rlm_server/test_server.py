"""The server as a whole: addresses, health, reflection, life and death."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc
from rlm_server.server import create_server
from rlm_server.service.completion_service import CompletionService
from rlm_server.settings import Settings, SettingsError

from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel


async def test_it_is_healthy_and_reflects_its_services(local_stack: Stack) -> None:
    async with grpc.aio.insecure_channel(local_stack.server.addresses[0]) as channel:
        check = health_pb2.HealthCheckRequest(service="rlm.v1.CompletionService")
        assert (await health_pb2_grpc.HealthStub(channel).Check(check)).status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        services = {one.name for one in (await call.read()).list_services_response.service}
    assert "rlm.v1.CompletionService" in services


async def test_it_listens_on_several_addresses(model: ScriptedModel, tmp_path: Path) -> None:
    async with running_stack(model, listen=("127.0.0.1:0", f"unix:{tmp_path}/rlm.sock")) as stack:
        assert not stack.server.addresses[0].endswith(":0")
        async with grpc.aio.insecure_channel(stack.server.addresses[1]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1


async def test_an_address_in_use_is_an_os_error(local_stack: Stack) -> None:
    settings = Settings(
        default_model="m", listen=tuple(local_stack.server.addresses), sandbox="local", base_url="http://127.0.0.1:1"
    )
    second = await create_server(settings)
    with pytest.raises(OSError, match="cannot listen"):
        await second.start()
    await second.stop(0)


async def test_a_server_that_never_started_can_be_stopped_twice() -> None:
    server = await create_server(Settings(default_model="m", sandbox="local", base_url="http://127.0.0.1:1"))
    await server.stop(0)
    await server.stop(0)


def test_every_rpc_of_the_contract_has_a_handler() -> None:
    names = [name for name in vars(pb_grpc.CompletionServiceServicer) if name[0].isupper()]
    assert names
    for name in names:
        assert getattr(CompletionService, name) is not getattr(pb_grpc.CompletionServiceServicer, name)


async def test_an_unexpected_failure_ends_the_completion_without_telling_secrets(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rlm_server.engine import loop

    def broken(_: str) -> Any:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(loop, "parse_reply", broken)
    events = await local_stack.complete("FINAL(x)")
    assert events.reason == "INTERNAL_ERROR"
    assert events.finished.answer == "FINAL(x)"
    assert not any("secret" in str(event) for event in events.all)
    assert "a secret path" in caplog.text
    assert events.all[0].completion_id in caplog.text


async def test_completions_run_side_by_side(local_stack: Stack) -> None:
    def reply(messages: Any) -> str:
        return "```repl\nFINAL(context.upper())\n```"

    many = await asyncio.gather(*(local_stack.play(reply) for _ in range(20)))
    assert {events.answer for events in many} == {"ABC"}
    assert len({events.all[0].completion_id for events in many}) == 20


async def test_a_key_file_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"api_key_file .* cannot be read"):
        await create_server(Settings(default_model="m", sandbox="local", api_key_file=tmp_path / "none"))


@pytest.mark.parametrize(
    ("blob_store", "told"),
    [
        ("ftp://x", r"blob_store ftp://x cannot be used: .*; give s3://BUCKET/PREFIX$"),
        ("s3://key:sesame@bucket", r"blob_store s3://key:\*+@bucket has a key in it, which is not used"),
    ],
)
async def test_a_blob_store_of_no_kind_that_is_known_is_told_without_its_keys(
    tmp_path: Path, blob_store: str, told: str
) -> None:
    settings = Settings(default_model="m", sandbox="local", data_dir=tmp_path, blob_store=blob_store)
    with pytest.raises(SettingsError, match=told):
        await create_server(settings)
