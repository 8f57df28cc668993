"""A real RLM server over a real connection, with a scripted model behind it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc
from rlm_api.rlm.v1 import event_pb2
from rlm_common.server import CHANNEL_OPTIONS
from rlm_server.server import RlmServer, create_server
from rlm_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.support.scripted_model import Script, ScriptedModel


class Events:
    """The events of a completion.

    Args:
        all_events: in order.
    """

    def __init__(self, all_events: Sequence[event_pb2.Event]) -> None:
        self.all = list(all_events)

    def of(self, kind: str, node_id: str | None = None) -> list[Any]:
        """Returns what the events of a kind tell, of one node or of all."""
        return [getattr(event, kind) for event in self.events_of(kind, node_id)]

    def events_of(self, kind: str, node_id: str | None = None) -> list[event_pb2.Event]:
        """Returns the events of a kind, of one node or of all."""
        return [
            event
            for event in self.all
            if event.WhichOneof("kind") == kind and (node_id is None or event.node_id == node_id)
        ]

    def kinds(self, node_id: str | None = None) -> list[str]:
        """Returns the kinds of the events in order, of one node or of all."""
        return [str(event.WhichOneof("kind")) for event in self.all if node_id is None or event.node_id == node_id]

    @property
    def finished(self) -> event_pb2.CompletionFinished:
        """The last event."""
        assert self.all[-1].WhichOneof("kind") == "finished"
        return self.all[-1].finished

    @property
    def answer(self) -> str:
        """The answer, which must be a final one."""
        assert self.reason == "ANSWERED", self.finished
        assert not self.finished.partial
        return self.finished.answer

    @property
    def reason(self) -> str:
        """Why the completion ended, as `MAX_TOKENS`."""
        return event_pb2.FinishReason.Name(self.finished.finish_reason).removeprefix("FINISH_REASON_")

    @property
    def warnings(self) -> list[str]:
        """The codes of the warnings in order, as `NO_CODE`."""
        return [event_pb2.WarningCode.Name(one.code).removeprefix("WARNING_CODE_") for one in self.of("warning")]

    @property
    def output(self) -> str:
        """What the root's code wrote."""
        return "".join(one.text for one in self.of("output", "0"))

    @property
    def outcomes(self) -> list[str]:
        """How the root's blocks ended, as `OK`."""
        names = [event_pb2.CodeOutcome.Name(one.outcome) for one in self.of("code_finished", "0")]
        return [name.removeprefix("CODE_OUTCOME_") for name in names]


class Stack:
    """A server and its model.

    Args:
        server: has started.
        stub: is connected to it.
        model: what it asks.
    """

    def __init__(self, server: RlmServer, stub: pb_grpc.CompletionServiceAsyncStub, model: ScriptedModel) -> None:
        self.server = server
        self.stub = stub
        self.model = model

    def start(self, script: Script, **fields: Any) -> grpc.aio.UnaryStreamCall[pb.CompleteRequest, pb.CompleteResponse]:
        """Begins a completion; by default of some query over the text `abc`."""
        self.model.follow(script)
        fields.setdefault("query", "What is it?")
        fields.setdefault("contexts", [pb.ContextPart(text="abc")])
        return self.stub.Complete(pb.CompleteRequest(**fields))

    async def complete(self, *replies: Any, **fields: Any) -> Events:
        """Runs a completion whose models give these replies in order."""
        return Events([response.event async for response in self.start(replies, **fields)])

    async def play(self, script: Script, **fields: Any) -> Events:
        """Runs a completion whose models reply as a function of the messages says."""
        return Events([response.event async for response in self.start(script, **fields)])

    async def run_code(self, code: str, **fields: Any) -> Events:
        """Runs a completion whose only code is this; the answer is `done`."""
        return await self.complete(f"```repl\n{code}\n```", "FINAL(done)", **fields)

    def shown_to_root(self, turn: int) -> str:
        """Returns the message that the root's model got before a turn, counted from 1."""
        conversations = [one for one in self.model.conversations if one[0]["role"] == "system"]
        return conversations[turn - 1][-1]["content"]


@contextlib.asynccontextmanager
async def running_stack(model: ScriptedModel, **settings: Any) -> AsyncIterator[Stack]:
    """Runs a server until the block ends.

    Args:
        model: what it asks.
        settings: fields of `Settings` that are other than the tests' defaults.
    """
    defaults: dict[str, Any] = {
        "default_model": "root-model",
        "default_sub_model": "sub-model",
        "listen": ("127.0.0.1:0",),
        "sandbox": "local",
        "base_url": model.base_url,
        "model_max_retries": 0,
        "client_grace_seconds": 0.0,
    }
    server = await create_server(Settings(**(defaults | settings)))
    try:
        await server.start()
        async with grpc.aio.insecure_channel(server.addresses[0], options=CHANNEL_OPTIONS) as channel:
            stub: pb_grpc.CompletionServiceAsyncStub = pb_grpc.CompletionServiceStub(channel)
            yield Stack(server, stub, model)
    finally:
        await server.stop(0)
