"""What it costs that completions are kept, over gRPC: a turn, a sub-call, going on after a crash, and many watchers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2

from bench.completions import TimedEvents
from bench.environment import open_channel, rlm_stub
from bench.measure import Series
from bench.results import PartResult, Row, Target

if TYPE_CHECKING:
    import grpc
    from rlm_api.rlm.v1 import event_pb2

    from bench.environment import Environment, Server

NAME = "kept"

_TAKEOVER = Target(10.0, absolute=True)
_RECOVERY = Target(2.0, absolute=True)
_TARGET_CELLS = 50
_SUBCALLS = "```repl\nturn = {turn}\nfor n in range({count}):\n    llm_query(f'Say something about {{n}}.')\n```"
_WAIT = "```repl\nllm_query('Wait.', model='{model}')\n```"
_SLOW_MODEL = "demo-model?latency_seconds={seconds}"
_CELL = "```repl\nlines = ['record %d of {turn}' % i for i in range(100)]\nprint(lines[-1])\n```"


async def run(environment: Environment) -> PartResult:
    """Measures all of it. PostgreSQL is measured where `RLM_BENCH_POSTGRES` has the address of an empty database."""
    rows = await _cost(environment)
    rows += await _recovery(environment)
    rows.append(await _takeover(environment))
    rows.append(await _watchers(environment))
    return PartResult(NAME, "Keeping completions, over gRPC", rows, [])


# --- what a turn and a sub-call cost


async def _cost(environment: Environment) -> list[Row]:
    """Measures servers that keep nothing, and that keep it in one database or the other, in turns."""
    rounds, turns, subcalls = (1, 2, 2) if environment.quick else (10, 20, 50)
    sandbox = (await environment.sandbox()).addresses["unix"]
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            "nothing kept": await environment.start_rlm(stack, "kept-off", "--sandbox", sandbox, keeps=False),
            "SQLite": await environment.start_rlm(stack, "kept-sqlite", "--sandbox", sandbox),
        }
        if url := os.environ.get("RLM_BENCH_POSTGRES"):
            arguments = ("--sandbox", sandbox, "--database", url)
            servers["PostgreSQL"] = await environment.start_rlm(stack, "kept-postgresql", *arguments)
        iterations: dict[str, list[list[float]]] = {name: [] for name in servers}
        calls: dict[str, list[list[float]]] = {name: [] for name in servers}
        names = list(servers)
        for number in range(rounds + 1):
            for index in range(len(names)):
                name = names[(number + index) % len(names)]
                whole, each = await _turns_and_subcalls(servers[name], turns, subcalls)
                if number:  # the first round warms up
                    iterations[name].append(whole)
                    calls[name].append([each])
    return [
        Row(
            Series(f"{what}, {name}", "unix", rounds=of[name]),
            None if name == "nothing kept" else Series(f"{what}, nothing kept", "unix", rounds=of["nothing kept"]),
        )
        for what, of in (("a turn", iterations), ("a sub-call", calls))
        for name in names
    ]


async def _turns_and_subcalls(server: Server, turns: int, subcalls: int) -> tuple[list[float], float]:
    """Returns what each turn of a completion takes, and each of its sub-calls, made one after the other."""
    replies = [f"```repl\nx = {turn}\n```" for turn in range(turns)]
    events = await _complete(server.channels["unix"], [*replies, _SUBCALLS.format(turn=turns, count=subcalls)])
    starts = events.times_of("iteration_started")
    block = events.times_of("code_finished")[-1] - events.times_of("code_started")[-1]
    return [later - earlier for earlier, later in pairwise(starts[: turns + 1])], block / subcalls


async def _complete(channel: grpc.aio.Channel, replies: list[str]) -> TimedEvents:
    events = TimedEvents(time.perf_counter())
    async for response in rlm_stub(channel).Complete(_request([*replies, "FINAL(done)"])):
        events.add(response.event)
    (finished,) = events.of("finished")
    if finished.answer != "done" or finished.partial:
        raise RuntimeError(f"the completion ended with {finished}")
    return events


def _request(replies: list[str], *, detached: bool = False) -> pb.CompleteRequest:
    return pb.CompleteRequest(
        query="\n".join(f"<reply>\n{reply}\n</reply>" for reply in replies),
        contexts=[pb.ContextPart(text="some text")],
        limits=limits_pb2.Limits(max_iterations=len(replies), max_subcalls=10_000),
        detached=detached,
    )


# --- how long going on takes


async def _recovery(environment: Environment) -> list[Row]:
    """Kills servers in the middle of a block, and measures until the next one is at that block, by its own clock."""
    rounds, sizes = (1, (2,)) if environment.quick else (5, (10, _TARGET_CELLS, 200))
    rows = []
    for cells in sizes:
        taken = [[await _recover(environment, f"recovery-{cells}-{number}", cells)] for number in range(rounds)]
        series = Series(f"from `resumed` to a sandbox with the state of {cells} blocks", rounds=taken)
        rows.append(Row(series, None, _RECOVERY if cells == _TARGET_CELLS else None))
    return rows


async def _recover(environment: Environment, name: str, cells: int) -> float:
    sandbox = (await environment.sandbox()).addresses["unix"]
    arguments = ("--sandbox", sandbox, "--set", "lease_seconds=1")
    replies = [_CELL.format(turn=turn) for turn in range(cells)]
    replies.append(_WAIT.format(model=_SLOW_MODEL.format(seconds=3600)))
    async with contextlib.AsyncExitStack() as stack:
        first = await environment.start_rlm(stack, name, *arguments)
        events = rlm_stub(first.channels["unix"]).Complete(_request(replies, detached=True))
        completion_id = ""
        async for response in events:
            completion_id = response.event.completion_id
            if response.event.HasField("subcall_started"):
                break
        await first.child.kill()
        second = await environment.start_rlm(stack, name, *arguments)
        stub = rlm_stub(second.channels["unix"])
        resumed = 0.0
        async for watched in stub.WatchCompletion(pb.WatchCompletionRequest(completion_id=completion_id)):
            if watched.event.HasField("resumed"):
                resumed = _seconds(watched.event)
            elif watched.event.HasField("sandbox_restored"):
                await stub.CancelCompletion(pb.CancelCompletionRequest(completion_id=completion_id))
                return _seconds(watched.event) - resumed
    raise RuntimeError("the completion did not go on")


def _seconds(event: event_pb2.Event) -> float:
    return event.event_time.ToNanoseconds() / 1e9


async def _takeover(environment: Environment) -> Row:
    """Kills the server that runs a completion, beside another, and measures until that says that it goes on."""
    rounds = 1 if environment.quick else 5
    sandbox = (await environment.sandbox()).addresses["unix"]
    arguments = ("--sandbox", sandbox, *(("--set", "lease_seconds=0.5") if environment.quick else ()))
    taken = []
    for number in range(rounds):
        async with contextlib.AsyncExitStack() as stack:
            name = f"takeover-{number}"
            victim = await environment.start_rlm(stack, name, *arguments)
            # The directory is common: a server of another name has its own, so the database is named.
            database = f"sqlite:///{environment.directory}/{name}-data/journal.db"
            other = await environment.start_rlm(stack, f"{name}-other", *arguments, "--database", database)
            replies = [_WAIT.format(model=_SLOW_MODEL.format(seconds=3600))]
            call = rlm_stub(victim.channels["unix"]).Complete(_request(replies, detached=True))
            event = (await call.read()).event
            while not event.HasField("subcall_started"):
                event = (await call.read()).event
            stub = rlm_stub(other.channels["unix"])
            request = pb.WatchCompletionRequest(completion_id=event.completion_id, after_sequence=event.sequence)
            watching = stub.WatchCompletion(request)
            killed = time.perf_counter()
            await victim.child.kill()
            async for watched in watching:
                if watched.event.HasField("resumed"):
                    break
            taken.append([time.perf_counter() - killed])
            await stub.CancelCompletion(pb.CancelCompletionRequest(completion_id=event.completion_id))
    return Row(Series("from the kill of a server to `resumed` at a watcher of another", rounds=taken), None, _TAKEOVER)


# --- many watchers


async def _watchers(environment: Environment) -> Row:
    """Measures how long after an event happened each of many watchers has it."""
    count, channels, turns = (20, 2, 2) if environment.quick else (1000, 10, 8)
    server = await environment.rlm()
    late: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        slow = _SLOW_MODEL.format(seconds=0.2 if environment.quick else 2.0)
        request = _request([*(f"```repl\nx = {turn}\n```" for turn in range(turns)), "FINAL(done)"], detached=True)
        request.model = slow
        first = (await rlm_stub(server.channels["unix"]).Complete(request).read()).event
        open_channels = [await open_channel(stack, server.addresses["unix"]) for _ in range(channels)]
        ready = asyncio.Event()

        async def watch(channel: grpc.aio.Channel) -> int:
            seen = 0
            watched = pb.WatchCompletionRequest(completion_id=first.completion_id)
            async for response in rlm_stub(channel).WatchCompletion(watched):
                seen += 1
                if ready.is_set():
                    late.append(time.time() - _seconds(response.event))
            return seen

        tasks = [asyncio.create_task(watch(open_channels[number % channels])) for number in range(count)]
        await asyncio.sleep(0.2 if environment.quick else 6.0)  # until all have caught up
        ready.set()
        seen = set(await asyncio.gather(*tasks))
    if len(seen) != 1:
        raise RuntimeError(f"watchers have seen different numbers of events: {seen}")
    return Row(Series(f"from an event to each of {count:,} watchers", "unix", rounds=[late]))
