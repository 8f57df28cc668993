"""Many completions at once, and many sub-calls at once, against a model that takes its time."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2

from bench.environment import TRANSPORTS, rlm_stub
from bench.measure import Series
from bench.results import PartResult, Row, Target
from bench.usage import cpu_seconds, family

if TYPE_CHECKING:
    import grpc

    from bench.environment import Environment

NAME = "load"

_COMPLETIONS_AT_ONCE = 200
_COMPLETION_TARGET = Target(1.3)
_SUBCALLS = 1000
_SUBCALLS_AT_ONCE = 100
_BATCH_TARGET = Target(1.5)

# Three turns and a batch of sub-calls, so four times the model's latency one after the other.
_TURNS = (
    "```repl\nprint(type(context), len(context))\nprint(context[:200])\n```",
    "```repl\nreplies = llm_query_batched([f'Say something about {n}.' for n in range(4)])\nprint(replies)\n```",
    "FINAL(done)",
)


def _batch(count: int) -> tuple[str, ...]:
    prompts = f"[f'Say something about {{n}}.' for n in range({count})]"
    return f"```repl\nreplies = llm_query_batched({prompts})\n```", "FINAL(done)"


def _request(replies: tuple[str, ...], latency_seconds: float) -> pb.CompleteRequest:
    dictation = "\n".join(f"<reply>\n{reply}\n</reply>" for reply in replies)
    return pb.CompleteRequest(
        query=dictation,
        contexts=[pb.ContextPart(text="some text")],
        model=f"demo-model?latency_seconds={latency_seconds}",
        sub_model=f"demo-model?latency_seconds={latency_seconds}",
        limits=limits_pb2.Limits(max_concurrent_subcalls=_SUBCALLS_AT_ONCE),
    )


class _Completion:
    """A completion, and when its events came."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.times: list[float] = []
        self.cell_seconds = 0.0

    async def run(self, channel: grpc.aio.Channel, request: pb.CompleteRequest) -> float:
        """Runs it to its end, and returns how long it took.

        Raises:
            RuntimeError: it did not go as it should.
        """
        finished = None
        async for response in rlm_stub(channel).Complete(request):
            self.times.append(time.perf_counter())
            if response.event.WhichOneof("kind") == "code_finished":
                self.cell_seconds = response.event.code_finished.wall_time.ToNanoseconds() / 1e9
            finished = response.event.finished
        if finished is None or finished.answer != "done" or finished.partial:
            raise RuntimeError(f"the completion ended with {finished}")
        return self.times[-1] - self.start


async def run(environment: Environment) -> PartResult:
    """Measures one completion and many in turns, then the batch."""
    server = await environment.rlm()
    count, latency_seconds, rounds = (4, 0.05, 1) if environment.quick else (_COMPLETIONS_AT_ONCE, 1.0, 3)
    request = _request(_TURNS, latency_seconds)
    rows, notes = [], []
    for transport in TRANSPORTS:
        channel = server.channels[transport]
        await _Completion().run(channel, request)
        one, many = Series("one completion", transport), Series(f"{count} completions at once", transport)
        first = Series("from the call to `started`, the slowest", transport)
        for _ in range(rounds):
            one.rounds.append([await _Completion().run(channel, request)])
            before = {name: cpu_seconds(pid) for name, pid in _processes(server.child.pid).items()}
            completions = [_Completion() for _ in range(count)]
            start = time.perf_counter()
            await asyncio.gather(*(completion.run(channel, request) for completion in completions))
            many.rounds.append([time.perf_counter() - start])
            first.rounds.append([max(one.times[0] - one.start for one in completions)])
        used = {name: cpu_seconds(pid) - before.get(name, 0.0) for name, pid in _processes(server.child.pid).items()}
        longest = max(max(b - a for a, b in zip(one.times, one.times[1:], strict=False)) for one in completions)
        rows += [Row(many, one, _COMPLETION_TARGET), Row(first)]
        notes.append(
            f"{count} completions, {transport}: the longest that a client waited for its next event was "
            f"{longest:.2f} s; processor time for one completion in ms: "
            + ", ".join(f"{name} {seconds / count * 1e3:.1f}" for name, seconds in used.items())
            + "."
        )
    rows += await _batches(environment)
    return PartResult(NAME, "Many at once, with a model that takes its time", rows, notes)


async def _batches(environment: Environment) -> list[Row]:
    server = await environment.rlm()
    rounds, latency_seconds, count = (1, 0.01, 20) if environment.quick else (5, 0.1, _SUBCALLS)
    ideal = latency_seconds * math.ceil(count / _SUBCALLS_AT_ONCE)
    rows = []
    for transport in TRANSPORTS:
        series = Series(f"batch of {count} sub-calls, {_SUBCALLS_AT_ONCE} at once", transport)
        for _ in range(rounds):
            completion = _Completion()
            await completion.run(server.channels[transport], _request(_batch(count), latency_seconds))
            series.rounds.append([completion.cell_seconds])
        floor = Series("the model's latency alone", transport, rounds=[[ideal]] * rounds)
        rows.append(Row(series, floor, _BATCH_TARGET))
    return rows


def _processes(pid: int) -> dict[str, int]:
    server, *others = family(pid)
    return {"RLM server": server} | {f"sandbox process {number}": other for number, other in enumerate(others)}
