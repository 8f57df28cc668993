"""What the journal costs: a step, recovery by its size, and many watchers of one completion."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_server.engine.limits import CellBounds
from rlm_server.engine.ports.sessions import CellResult
from rlm_server.journal.appends import Append
from rlm_server.journal.blobs import DirectoryBlobs
from rlm_server.journal.database import Database, sqlite_url
from rlm_server.journal.records import CellRecord
from rlm_server.journal.store import Journal, NewCompletion, Payload
from rlm_server.service.feeds import Feeds

from bench.measure import Series
from bench.results import PartResult, Row, Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.environment import Environment

NAME = "durability"

_STEP = Target(0.002, absolute=True)
_RECORD_BYTES = 1000
_DELTAS = 20
_WATCHERS = 1000


async def run(environment: Environment) -> PartResult:
    """Measures the journal by itself; what a turn costs with it is in the part `iteration`.

    PostgreSQL is measured where `RLM_BENCH_POSTGRES` has the address of a database that may be filled.
    """
    rounds, steps = (1, 20) if environment.quick else (5, 200)
    databases = {"nothing kept": ("", False), "SQLite": ("", True)}
    if url := os.environ.get("RLM_BENCH_POSTGRES"):
        databases["PostgreSQL"] = (url, True)
    rows, notes = [], []
    for name, (url, durable) in databases.items():
        async with _journal(url, durable=durable) as journal:
            one = [await _steps(journal, steps) for _ in range(rounds)]
            rows.append(
                Row(
                    Series(f"one step: a record and {_DELTAS} events, {name}", rounds=one),
                    None,
                    _STEP if name == "SQLite" else None,
                )
            )
            many = [[await _many(journal, 32, steps // 4)] for _ in range(rounds)]
            rows.append(Row(Series(f"one step of 32 completions at once, {name}", rounds=many)))
            for size in (10, 100, 1000):
                loads = [[await _load(journal, size)] for _ in range(rounds)]
                rows.append(Row(Series(f"reading the journal of {size} steps, {name}", rounds=loads)))
    async with _journal("", durable=True) as journal:
        seconds, count = await _watch(journal, _WATCHERS // (10 if environment.quick else 1), 100)
        notes.append(f"{count:,} watchers each got 100 events of one completion in {seconds:.2f} s, in process")
    return PartResult(NAME, "The journal of completions", rows, notes)


@contextlib.asynccontextmanager
async def _journal(url: str, *, durable: bool) -> AsyncIterator[Journal]:
    with tempfile.TemporaryDirectory(prefix="rlm-bench-") as path:
        database = Database(url or sqlite_url(Path(path) / "journal.db"), durable=durable)
        journal = Journal(database, DirectoryBlobs(Path(path) / "blobs"), owner=uuid.uuid4().hex, lease_seconds=600)
        await journal.open()
        try:
            yield journal
        finally:
            await journal.close()


async def _begin(journal: Journal) -> str:
    completion_id = uuid.uuid4().hex
    new = NewCompletion(completion_id, b"request", None, "digest", "query", "model", {}, detached=True)
    await journal.create(new)
    return completion_id


async def _steps(journal: Journal, count: int) -> list[float]:
    """Records steps one after the other, each after its events, as the engine does; returns what each took."""
    completion_id = await _begin(journal)
    taken = []
    for number in range(count):
        start = time.perf_counter()
        await _step(journal, completion_id, number)
        taken.append(time.perf_counter() - start)
    return taken


async def _step(journal: Journal, completion_id: str, number: int) -> None:
    event = Payload(b"x" * 60, None, 60)
    for delta in range(1, _DELTAS + 1):
        journal.append(Append(completion_id, 1, events=[(number * _DELTAS + delta, 12, event)]))
    record = Payload(b"x" * _RECORD_BYTES, None, _RECORD_BYTES)
    await journal.append(Append(completion_id, 1, steps=[(f"m/0/{number}", record)]))


async def _many(journal: Journal, completions: int, count: int) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(_steps(journal, count) for _ in range(completions)))
    return (time.perf_counter() - start) / completions / count


async def _load(journal: Journal, count: int) -> float:
    """Returns how long it takes to read what was recorded, and to decode it."""
    completion_id = await _begin(journal)
    data = CellRecord("x = 1\n" * 20, CellBounds(), CellResult(1), [(1, "out\n" * 50)]).encode()
    payload = Payload(data, None, len(data))
    for start in range(0, count, 100):
        steps = [(f"c/0/{number}", payload) for number in range(start, min(start + 100, count))]
        await journal.append(Append(completion_id, 1, steps=steps))
    begin = time.perf_counter()
    for recorded in (await journal.steps(completion_id)).values():
        CellRecord.decode(journal.payloads.bytes_of(recorded))
    return time.perf_counter() - begin


async def _watch(journal: Journal, watchers: int, count: int) -> tuple[float, int]:
    """Returns how long it takes until all watchers have all events of a completion that is under way."""
    from rlm_api.rlm.v1 import event_pb2  # noqa: PLC0415 - needed here alone

    completion_id = await _begin(journal)
    feeds = Feeds(journal, lambda _: None)
    feed = feeds.open_local(completion_id, 0)

    async def watch() -> int:
        return len([event async for event in feeds.events(completion_id, 0)])

    tasks = [asyncio.create_task(watch()) for _ in range(watchers)]
    await asyncio.sleep(0)
    start = time.perf_counter()
    for number in range(1, count + 1):
        feed.publish(event_pb2.Event(completion_id=completion_id, sequence=number, node_id="0"))
        await asyncio.sleep(0)
    feed.end()
    seen = await asyncio.gather(*tasks)
    if statistics.mean(seen) != count:
        raise AssertionError("a watcher missed an event")
    return time.perf_counter() - start, watchers
