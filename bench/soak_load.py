"""What a soak has a sandbox server do: what users do, and what the hostile corpus does, mixed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import duration_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from bench.environment import sandbox_stub
from tests.hostile.corpus import CORPUS

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable

_WALL_SECONDS = 0.5
_HOSTILE_LIMITS = pb.Limits(
    wall_time=duration_pb2.Duration(nanos=int(_WALL_SECONDS * 1e9)),
    fuel=10**13,
    memory_bytes=128 << 20,
    output_bytes=64 << 10,
    scratch_bytes=4 << 20,
)
_USERS_LIMITS = pb.Limits(wall_time=duration_pb2.Duration(seconds=60), memory_bytes=256 << 20, scratch_bytes=16 << 20)


class Load:
    """Does one thing after the other, chosen at random.

    Args:
        channel: leads to the server.
        chance: chooses.
    """

    def __init__(self, channel: grpc.aio.Channel, chance: random.Random) -> None:
        self._stub = sandbox_stub(channel)
        self._chance = chance
        self._names = list(CORPUS)
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []

    async def run(self, until: float) -> None:
        """Goes on until a time of the monotonic clock."""
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "runs": self._run,
            "sessions": self._session,
            "uploads": self._upload,
            "hostile programs": self._hostile,
            "broken streams": self._broken,
        }
        while time.monotonic() < until:
            kind = self._chance.choices(list(kinds), weights=[30, 10, 3, 30, 5])[0]
            try:
                await kinds[kind]()
            except (grpc.aio.AioRpcError, AssertionError) as error:
                self.failures.append(f"{kind}: {error!r}"[:500])
            self.done[kind] += 1

    async def _run(self) -> None:
        number = self._chance.randrange(10**6)
        code = "import json\nopen('x', 'w').write('y' * 10_000)\nprint(json.dumps({'n': n + 1}))"
        request = pb.RunRequest(
            code=code, inputs=[pb.Input(name="n", json=str(number))], output_files=["x"], limits=_USERS_LIMITS
        )
        response = await self._run_once(request)
        _expect(response.stdout == f'{{"n": {number + 1}}}\n' and len(response.files[0].data) == 10_000, response)

    async def _session(self) -> None:
        call = await self._open(_USERS_LIMITS)
        await self._cell(call, "kept = [ask(n) for n in range(5)]\nopen('log', 'w').write('x' * 10**5)")
        killed = await self._cell(call, "while True: pass", pb.Limits(fuel=10**8))
        _expect(killed.state == pb.SESSION_STATE_RESTORED, killed)
        last = await self._cell(call, "import os\nassert kept == [0, 1, 2, 3, 4] and os.path.getsize('log') == 10**5")
        _expect(last.outcome == pb.OUTCOME_OK, last)
        await call.write(pb.SessionRequest(close=pb.CloseSession()))
        await call.read()

    async def _upload(self) -> None:
        data = self._chance.randbytes(1 << 20)
        digest = hashlib.sha256(data).hexdigest()

        async def requests() -> AsyncIterator[pb.UploadBlobRequest]:
            yield pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=digest, size_bytes=len(data)))
            yield pb.UploadBlobRequest(chunk=data)

        await self._stub.UploadBlob(requests())
        request = pb.RunRequest(
            code="import hashlib\nprint(hashlib.sha256(open('f', 'rb').read()).hexdigest())",
            files=[pb.FileInput(path="f", blob_sha256=digest)],
            limits=_USERS_LIMITS,
        )
        response = await self._run_once(request)
        _expect(response.stdout == f"{digest}\n", response)

    async def _hostile(self) -> None:
        name = self._chance.choice(self._names)
        program = CORPUS[name]
        call = await self._open(_HOSTILE_LIMITS)
        finished = await self._cell(call, program.code, answers=False)
        outcome = pb.Outcome.Name(finished.outcome).removeprefix("OUTCOME_")
        _expect(outcome in {*program.outcomes, "DEADLINE"}, f"{name}: {finished}")
        await self._cell(call, "pass", answers=False)
        call.cancel()

    async def _broken(self) -> None:
        name = self._chance.choice(self._names)
        call = await self._open(_HOSTILE_LIMITS)
        await call.write(pb.SessionRequest(run_cell=pb.RunCell(code=CORPUS[name].code)))
        await asyncio.sleep(self._chance.random() * _WALL_SECONDS)
        call.cancel()

    async def _run_once(self, request: pb.RunRequest) -> pb.RunResponse:
        """Runs a cell; what broke off just now may still have its place for a moment."""
        while True:
            try:
                response: pb.RunResponse = await self._stub.Run(request)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.01)
            else:
                return response

    async def _open(self, limits: pb.Limits) -> Any:
        """Opens a session; what broke off just now may still have its place for a moment."""
        while True:
            call = self._stub.Session()
            opening = pb.OpenSession(limits=limits, host_functions=[pb.HostFunction(name="ask")])
            try:
                await call.write(pb.SessionRequest(open=opening))
                response = await call.read()
            except grpc.aio.AioRpcError as error:
                # A write to a stream that is refused just then fails as INTERNAL.
                if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL):
                    raise
                await asyncio.sleep(0.01)
                continue
            if isinstance(response, pb.SessionResponse):
                return call

    async def _cell(
        self, call: Any, code: str, limits: pb.Limits | None = None, *, answers: bool = True
    ) -> pb.CellResult:
        await call.write(pb.SessionRequest(run_cell=pb.RunCell(code=code, limits=limits)))
        while True:
            response = await call.read()
            if response.HasField("host_call") and answers:
                value = json.loads(response.host_call.arguments_json)["args"][0]
                answer = pb.HostCallResult(call_id=response.host_call.call_id, value_json=json.dumps(value))
                await call.write(pb.SessionRequest(host_call_result=answer))
            elif response.HasField("cell_finished"):
                result: pb.CellResult = response.cell_finished.result
                return result


def _expect(condition: bool, what: object) -> None:
    if not condition:
        raise AssertionError(f"not as it must be: {what}"[:2000])
