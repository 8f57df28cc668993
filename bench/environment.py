"""The servers and floors of a run: each is started when a part first asks for it, and lives to the end of the run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf import empty_pb2
from rlm_api.rlm.v1 import completion_service_pb2_grpc as rlm_grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as sandbox_grpc
from rlm_common.server import CHANNEL_OPTIONS

from bench.floors.grpc_server import SERVICE
from bench.processes import Child, running

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TRANSPORTS = ("unix", "tcp")

_RLM_SERVES = r"serving addresses=(\S+)"


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        child: its process.
        addresses: what channels are made with, by transport.
        channels: one by transport.
    """

    child: Child
    addresses: dict[str, str]
    channels: dict[str, grpc.aio.Channel]


class FloorCalls:
    """The methods of the floor's gRPC server over one channel.

    Args:
        channel: leads to it.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        serializers: dict[str, Any] = {
            "request_serializer": empty_pb2.Empty.SerializeToString,
            "response_deserializer": empty_pb2.Empty.FromString,
        }
        self._empty = channel.unary_unary(f"/{SERVICE}/Empty", **serializers)
        self._echo = channel.stream_stream(f"/{SERVICE}/Echo", **serializers)
        self.hash = channel.stream_unary(
            f"/{SERVICE}/Hash",
            request_serializer=pb.UploadBlobRequest.SerializeToString,
            response_deserializer=pb.UploadBlobResponse.FromString,
        )
        self._stream: Any = None

    async def empty(self) -> None:
        """Makes the empty unary call."""
        await self._empty(empty_pb2.Empty())

    async def echo(self) -> None:
        """Sends an empty message and waits for its echo, on a stream that stays open."""
        if self._stream is None:
            self._stream = self._echo()
        await self._stream.write(empty_pb2.Empty())
        await self._stream.read()

    async def close(self) -> None:
        """Ends the stream."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None


class BareProcess:
    """The process of `floors.bare`.

    Args:
        child: the process.
    """

    def __init__(self, child: Child) -> None:
        self._child = child

    async def ask(self, do: str, **arguments: Any) -> dict[str, float]:
        """Has it do something; returns its answer."""
        process = self._child.process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process was started without pipes")
        process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            await process.wait()
            raise self._child.error("ended")
        answer: dict[str, float] = json.loads(line)
        return answer


class Environment:
    """Starts what parts ask for. An asynchronous context manager.

    Args:
        quick: whether counts are to be as small as they can be.
    """

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self._stack = contextlib.AsyncExitStack()
        self._directory = ""
        self._started: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        self._directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rlm-bench-"))
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._stack.aclose()

    @property
    def directory(self) -> str:
        """Where servers have their sockets and data, until the end of the run."""
        return self._directory

    async def sandbox(self) -> Server:
        """Returns the sandbox server: `python -m sandbox_server serve`, with its defaults."""
        if "sandbox" not in self._started:
            self._started["sandbox"] = await self.start_sandbox(self._stack, "sandbox")
        server: Server = self._started["sandbox"]
        return server

    async def start_sandbox(self, stack: contextlib.AsyncExitStack, name: str, *arguments: str) -> Server:
        """Starts another sandbox server, with flags of its own, which ends with the stack."""
        command = ["serve", *arguments]
        return await self._start(stack, name, "sandbox_server", command, "sandbox server listens on (.+)$")

    async def rlm(self) -> Server:
        """Returns the RLM server: `rlm serve`, with a sandbox server as its child and the demo model behind it."""
        if "rlm" not in self._started:
            self._started["rlm"] = await self.start_rlm(self._stack, "rlm")
        server: Server = self._started["rlm"]
        return server

    async def start_rlm(
        self, stack: contextlib.AsyncExitStack, name: str, *arguments: str, keeps: bool = True
    ) -> Server:
        """Starts another RLM server, which ends with the stack.

        Args:
            stack: ends it.
            name: tells it apart; the same name finds the same data.
            arguments: more flags.
            keeps: whether what it records outlives it.
        """
        command = ["serve", "--base-url", f"{await self.model_url()}/v1", "--model", "demo-model", *arguments]
        if keeps:
            return await self._start(
                stack, name, "rlm_server.cli", [*command, "--data-dir", f"{self._directory}/{name}-data"], _RLM_SERVES
            )
        nowhere = {"XDG_DATA_HOME": "/dev/null"}  # a server whose user has no place for data keeps nothing
        return await self._start(stack, name, "rlm_server.cli", command, _RLM_SERVES, variables=nowhere)

    async def model_url(self) -> str:
        """Returns where the demo model serves that keeps what it was asked."""
        if "model" not in self._started:
            child = await self._stack.enter_async_context(running("bench.floors.model"))
            self._started["model"] = (await child.wait_for_line(r"model serves at (\S+)"))[1]
        url: str = self._started["model"]
        return url

    async def floor(self) -> Server:
        """Returns the gRPC server that does nothing."""
        if "floor" not in self._started:
            self._started["floor"] = await self._start(
                self._stack, "floor", "bench.floors.grpc_server", [], "floor listens on (.+)$"
            )
        server: Server = self._started["floor"]
        return server

    async def floor_calls(self, transport: str) -> FloorCalls:
        """Returns the calls of that server, over a transport."""
        calls = FloorCalls((await self.floor()).channels[transport])
        self._stack.push_async_callback(calls.close)
        return calls

    async def bare(self, number: int = 0) -> BareProcess:
        """Returns a process that does the work without a server; one by number."""
        key = f"bare {number}"
        if key not in self._started:
            child = await self._stack.enter_async_context(running("bench.floors.bare", talks=True))
            await child.wait_for_line("^ready$")
            self._started[key] = BareProcess(child)
        process: BareProcess = self._started[key]
        return process

    async def _start(
        self,
        stack: contextlib.AsyncExitStack,
        name: str,
        module: str,
        arguments: Sequence[str],
        pattern: str,
        *,
        variables: Mapping[str, str] | None = None,
    ) -> Server:
        listen = [f"unix:{self._directory}/{name}.sock", "127.0.0.1:0"]
        if module.startswith("bench."):
            options = listen
        else:
            options = [option for address in listen for option in ("--listen", address)]
        child = await stack.enter_async_context(running(module, [*arguments, *options], variables=variables))
        found = (await child.wait_for_line(pattern))[1]
        addresses = dict(zip(TRANSPORTS, found.replace(" ", "").split(","), strict=True))
        channels = {transport: await open_channel(stack, address) for transport, address in addresses.items()}
        return Server(child, addresses, channels)


async def open_channel(stack: contextlib.AsyncExitStack, address: str) -> grpc.aio.Channel:
    """Returns a channel that is connected, over a connection of its own, and ends with the stack."""
    options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
    await asyncio.wait_for(channel.channel_ready(), 10)
    return channel


def sandbox_stub(channel: grpc.aio.Channel) -> sandbox_grpc.ExecuteServiceAsyncStub:
    """Returns the service of a sandbox server."""
    stub: sandbox_grpc.ExecuteServiceAsyncStub = sandbox_grpc.ExecuteServiceStub(channel)
    return stub


def rlm_stub(channel: grpc.aio.Channel) -> rlm_grpc.CompletionServiceAsyncStub:
    """Returns the service of an RLM server."""
    stub: rlm_grpc.CompletionServiceAsyncStub = rlm_grpc.CompletionServiceStub(channel)
    return stub
