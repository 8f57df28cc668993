"""A large text context: from the first byte that is sent to the end of the first cell that can use it."""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as rlm_pb
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from bench.completions import complete
from bench.environment import TRANSPORTS, Environment, rlm_stub, sandbox_stub
from bench.measure import Plan, Series, Subject, interleave, timed
from bench.results import PartResult, Row, Target
from bench.sessions import open_session
from bench.usage import MemoryWatch, family, pss_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import grpc

    from bench.environment import FloorCalls, Server

NAME = "context"

_MB = 1_000_000
_CHUNK_BYTES = 1024 * 1024
_ROUNDS = {1: 12, 10: 8, 100: 4}
_LAST_CHUNK_TO_CELL = Target(0.6, absolute=True)
_LINE = (
    b"2026-03-01T12:00:00Z INFO worker-17 request=4711 path=/v1/items/42 status=200 took=13ms note=nothing unusual\n"
)


class _Texts:
    """Texts of one size, no two of which are equal, so that no cache has them.

    Args:
        size_bytes: of each.
    """

    def __init__(self, size_bytes: int) -> None:
        self._rest = (_LINE * (size_bytes // len(_LINE) + 1))[: size_bytes - 32]
        self.latest = b""

    def next(self) -> bytes:
        """Returns another text."""
        self.latest = b"%31d\n" % time.monotonic_ns() + self._rest
        return self.latest


class _SandboxPath:
    """What a client of the sandbox server does with a new context, and how long its parts take.

    Args:
        channel: leads to the server.
        texts: the contexts.
    """

    def __init__(self, channel: grpc.aio.Channel, texts: _Texts) -> None:
        self._channel = channel
        self._texts = texts
        self._digest = ""
        self.after_last_chunk: list[float] = []

    async def new(self) -> float:
        """Uploads a text nobody has seen, opens a session with it, runs a cell; its digest is made beforehand."""
        text = self._texts.next()
        self._digest = hashlib.sha256(text).hexdigest()
        start = time.perf_counter()
        last_chunk = await _upload(self._channel, text, self._digest)
        await self._use(len(text))
        end = time.perf_counter()
        self.after_last_chunk.append(end - last_chunk)
        return end - start

    async def again(self) -> float:
        """Opens another session with the latest text, and runs a cell."""
        start = time.perf_counter()
        await sandbox_stub(self._channel).GetBlob(pb.GetBlobRequest(sha256=self._digest))
        await self._use(len(self._texts.latest))
        return time.perf_counter() - start

    async def _use(self, size_bytes: int) -> None:
        blob = pb.Input(name="context", blob=pb.BlobInput(sha256=self._digest))
        async with open_session(self._channel, inputs=[blob]) as session:
            result = await session.run_cell("len(context)")
            if result.value_repr != str(size_bytes):
                raise RuntimeError(f"the context has {result.value_repr} characters, not {size_bytes}")


async def run(environment: Environment) -> PartResult:
    """Measures sizes one after the other, each against an upload to a server that only hashes."""
    sandbox, rlm = await environment.sandbox(), await environment.rlm()
    rows = []
    for megabytes in [1] if environment.quick else list(_ROUNDS):
        rows += await _rows(environment, sandbox, rlm, megabytes)
    title = "Text context: upload to the end of the first cell"
    if environment.quick:
        return PartResult(NAME, title, rows)
    alone, both = await _memory(environment)
    note = (
        f"Memory at its peak, beyond that of the idle servers, for 100 MB of text: {alone:.2f} x the text in the "
        f"sandbox server and its workers, {both:.2f} x in the RLM server and its sandbox server together (sum of PSS, "
        "sampled every 20 ms; files that are not mapped are not counted)."
    )
    return PartResult(NAME, title, rows, [note], {"peak_memory_by_text": {"sandbox": alone, "rlm and sandbox": both}})


async def _rows(environment: Environment, sandbox: Server, rlm: Server, megabytes: int) -> list[Row]:
    texts = _Texts(megabytes * _MB)
    plan = Plan(rounds=1) if environment.quick else Plan(rounds=_ROUNDS[megabytes])
    paths = {transport: _SandboxPath(sandbox.channels[transport], texts) for transport in TRANSPORTS}
    subjects = {}
    for transport, path in paths.items():
        calls = await environment.floor_calls(transport)
        of = f"{megabytes} MB"
        subjects["hash", transport] = Subject(f"{of}, upload that is only hashed", _hashing(calls, texts), transport)
        subjects["new", transport] = Subject(f"{of}, sandbox server, new text", path.new, transport)
        subjects["again", transport] = Subject(f"{of}, sandbox server, same text again", path.again, transport)
        whole = _through_rlm(rlm.channels[transport], texts)
        subjects["rlm", transport] = Subject(f"{of}, RLM server, new text", whole, transport)
    series = dict(zip(subjects, await interleave(list(subjects.values()), plan), strict=True))
    rows = [
        Row(series[name, transport], series["hash", transport])
        for name in ("new", "again", "rlm")
        for transport in TRANSPORTS
    ]
    for transport, path in paths.items():
        counted = path.after_last_chunk[-plan.rounds :]
        late = Series(f"{of}, last chunk to cell's end", transport, rounds=[[seconds] for seconds in counted])
        rows.append(Row(late, None, _LAST_CHUNK_TO_CELL if megabytes == 100 else None))
    return rows


def _hashing(calls: FloorCalls, texts: _Texts) -> Callable[[], Awaitable[float]]:
    async def sample() -> float:
        text = texts.latest or texts.next()
        return await timed(lambda: calls.hash(_chunks(text)))()

    return sample


def _through_rlm(channel: grpc.aio.Channel, texts: _Texts) -> Callable[[], Awaitable[float]]:
    async def sample() -> float:
        text = texts.next()
        start = time.perf_counter()
        metadata = rlm_pb.ContextMetadata(size_bytes=len(text), sha256=hashlib.sha256(text).hexdigest())
        messages = _rlm_messages(metadata, text)
        context_id = (await rlm_stub(channel).UploadContext(messages)).context_id
        reply = f"```repl\nassert len(context) == {len(text)}\n```"
        events = await complete(channel, [reply], rlm_pb.ContextPart(context_id=context_id))
        return events.times_of("code_finished")[0] - start

    return sample


async def _upload(channel: grpc.aio.Channel, text: bytes, digest: str) -> float:
    """Uploads a text; returns when its last chunk was handed to gRPC, which is no later than it arrived."""
    call = sandbox_stub(channel).UploadBlob()
    await call.write(pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=digest, size_bytes=len(text))))
    for message in _chunks(text):
        await call.write(message)
    last = time.perf_counter()
    await call.done_writing()
    await call
    return last


def _chunks(text: bytes) -> Iterator[pb.UploadBlobRequest]:
    for start in range(0, len(text), _CHUNK_BYTES):
        yield pb.UploadBlobRequest(chunk=text[start : start + _CHUNK_BYTES])


async def _rlm_messages(metadata: rlm_pb.ContextMetadata, text: bytes) -> AsyncIterator[rlm_pb.UploadContextRequest]:
    yield rlm_pb.UploadContextRequest(metadata=metadata)
    for start in range(0, len(text), _CHUNK_BYTES):
        yield rlm_pb.UploadContextRequest(chunk=text[start : start + _CHUNK_BYTES])


async def _memory(environment: Environment) -> tuple[float, float]:
    """Returns what 100 MB take at most, in units of their size, in servers that have done nothing before.

    The first is for the sandbox server alone, the second for an RLM server with its sandbox server.
    """
    texts = _Texts(100 * _MB)
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await environment.start_sandbox(stack, "memory-sandbox")
        alone = await _peak(sandbox, _SandboxPath(sandbox.channels["unix"], texts).new)
    async with contextlib.AsyncExitStack() as stack:
        rlm = await environment.start_rlm(stack, "memory-rlm")
        both = await _peak(rlm, _through_rlm(rlm.channels["unix"], texts))
    return alone, both


async def _peak(server: Server, use: Callable[[], Awaitable[float]]) -> float:
    idle = sum(pss_bytes(pid) for pid in family(server.child.pid))
    watch = MemoryWatch(server.child.pid)
    with watch.watching():
        await use()
    return (watch.peak_bytes - idle) / (100 * _MB)
