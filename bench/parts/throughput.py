"""Fresh sandboxes a second, with several clients at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.environment import TRANSPORTS, Environment, open_channel
from bench.measure import PER_SECOND, Plan, Series, Subject, interleave
from bench.parts.fresh_run import CODES, runner
from bench.results import PartResult, Row, Target
from bench.usage import cpu_seconds, family

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.environment import BareProcess, Server

NAME = "throughput"

_CLIENT_COUNTS = (1, 4, 16)
_WANTED = {16: Target(600.0, absolute=True)}
_WANTED_TAILS = {16: 0.1}
"""Seconds that 99 of 100 calls may take at most."""

_CODE = CODES["x = 1"]


@dataclass
class Load:
    """Clients that run code over and over, and what that took.

    Attributes:
        calls: runs code; one for each client.
        pid: the server's process; its workers are its children.
        seconds: how long a sample is.
    """

    calls: list[Callable[[], Awaitable[None]]]
    pid: int
    seconds: float
    latencies: list[list[float]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=lambda: {"server": 0.0, "workers": 0.0, "client": 0.0})

    @classmethod
    async def of_clients(
        cls, stack: contextlib.AsyncExitStack, server: Server, transport: str, count: int, seconds: float
    ) -> Load:
        """Returns so many clients, with a connection each that ends with the stack."""
        channels = [await open_channel(stack, server.addresses[transport]) for _ in range(count)]
        return cls([runner(channel, _CODE) for channel in channels], server.child.pid, seconds)

    async def sample(self) -> float:
        """Returns runs a second."""
        before = self._cpu()
        latencies: list[float] = []
        start = time.perf_counter()
        await asyncio.gather(*(self._keep_calling(call, start + self.seconds, latencies) for call in self.calls))
        elapsed = time.perf_counter() - start
        self.latencies.append(latencies)
        for name, used in self._cpu().items():
            self.cpu[name] += used - before[name]
        return len(latencies) / elapsed

    async def _keep_calling(self, call: Callable[[], Awaitable[None]], until: float, latencies: list[float]) -> None:
        while (start := time.perf_counter()) < until:
            await call()
            latencies.append(time.perf_counter() - start)

    def _cpu(self) -> dict[str, float]:
        server, *workers = family(self.pid)
        return {
            "server": cpu_seconds(server),
            "workers": sum(map(cpu_seconds, workers)),
            "client": time.process_time(),
        }


async def run(environment: Environment) -> PartResult:
    """Measures loads in turn with bare wasmtime in as many processes as there are cores."""
    server = await environment.sandbox()
    seconds = 0.2 if environment.quick else 1.5
    cores = len(os.sched_getaffinity(0))
    bare = [await environment.bare(number) for number in range(cores)]
    loads: dict[tuple[int, str], Load] = {}
    async with contextlib.AsyncExitStack() as stack:
        for transport in TRANSPORTS:
            for count in _CLIENT_COUNTS:
                loads[count, transport] = await Load.of_clients(stack, server, transport, count, seconds)
        subjects = [
            Subject(f"fresh `Run`, {count} clients", load.sample, transport, unit=PER_SECOND)
            for (count, transport), load in loads.items()
        ]
        floor_name = f"bare wasmtime, {cores} processes"
        subjects.append(Subject(floor_name, lambda: _bare_rate(bare, seconds), unit=PER_SECOND))
        plan = Plan(rounds=1, warm_up=0) if environment.quick else Plan(rounds=6)
        *measured, floor = await interleave(subjects, plan)

    rows = [Row(series, floor, _WANTED.get(count)) for (count, _), series in zip(loads, measured, strict=True)]
    notes = []
    for (count, transport), load in loads.items():
        latencies = load.latencies[-plan.rounds :]
        latency = Series(f"latency of `Run`, {count} clients", transport, rounds=latencies)
        rows.append(Row(latency))
        runs = sum(map(len, load.latencies))
        used = ", ".join(f"{name} {cpu / runs * 1e3:.2f}" for name, cpu in load.cpu.items())
        if count in _WANTED_TAILS:
            verdict = "met" if latency.tail <= _WANTED_TAILS[count] else "NOT met"
            wanted = f"{_WANTED_TAILS[count] * 1e3:g} ms"
            notes.append(
                f"{count} clients, {transport}: p99 of {latency.tail * 1e3:.1f} ms, {wanted} wanted, {verdict}."
            )
        notes.append(f"{count} clients, {transport}: processor time in ms for one `Run`: {used}.")
    return PartResult(NAME, "Fresh `Run`s a second", rows, notes, {"cores": cores})


async def _bare_rate(processes: list[BareProcess], seconds: float) -> float:
    answers = await asyncio.gather(*(one.ask("repeat", code=_CODE, for_seconds=seconds) for one in processes))
    return sum(answer["count"] / answer["seconds"] for answer in answers)
