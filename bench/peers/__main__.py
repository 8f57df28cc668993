"""`python -m bench.peers DIRECTORY`: measures the peers that `scripts/bench_peers.sh` installed there."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine
from bench.environment import Environment
from bench.native import NativePrograms
from bench.parts.fresh_run import CODES, runner
from bench.parts.throughput import Load
from bench.peers.process import Peer, PeerError
from bench.programs import PROGRAMS
from bench.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_HERE = Path(__file__).parent
_OURS = "sandbox_server"
_NATIVE = "native"
_ROUNDS = 3
_FRESH = 20
_FRESH_SLOW = 1
_RATE_SECONDS = 3.0


@dataclass
class _Contestant:
    """One that is measured.

    Attributes:
        name: for people.
        programs: runs a program by name; returns seconds of processor time.
        fresh: makes a sandbox and runs `x = 1`; returns seconds. None if it has no sandboxes.
        slow: whether making one takes so long that few are made.
        times: of programs, by name.
        failures: why programs do not run, by name.
        fresh_times: of `fresh`.
    """

    name: str
    programs: Callable[[str], Awaitable[float]]
    fresh: Callable[[], Awaitable[float]] | None = None
    slow: bool = False
    times: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    fresh_times: list[float] = field(default_factory=list)

    async def measure(self, program: str) -> None:
        """Takes a sample of a program."""
        if program in self.failures:
            return
        try:
            seconds = await self.programs(program)
        except PeerError as error:
            self.failures[program] = str(error)
        else:
            self.times.setdefault(program, []).append(seconds)


async def _start_peers(stack: contextlib.AsyncExitStack, directory: Path) -> list[tuple[str, Peer, bool]]:
    """Starts the peers that are installed; says which are not."""
    python, deno = str(directory / "venv/bin/python"), str(directory / "venv/bin/deno")
    script = str(directory / "drive_pyodide.mjs")
    commands = {
        "pyeryx": [python, str(_HERE / "drive_eryx.py")],
        "pydantic-monty": [python, str(_HERE / "drive_monty.py")],
        "node + Pyodide": ["node", script],
        "deno + Pyodide": [deno, "run", "-A", "--node-modules-dir=manual", script],
    }
    peers = []
    for name, command in commands.items():
        try:
            peer = await Peer.start(command, str(directory))
        except (OSError, PeerError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        stack.push_async_callback(peer.stop)
        peers.append((name, peer, "Pyodide" in name))
    return peers


def _of_peer(name: str, peer: Peer, *, slow: bool) -> _Contestant:
    prepared: set[str] = set()

    async def program(program_name: str) -> float:
        if program_name not in prepared:
            await peer.ask("prepare", name=program_name, source=PROGRAMS[program_name])
            await peer.ask("program", name=program_name)
            prepared.add(program_name)
        return await peer.ask("program", name=program_name)

    return _Contestant(name, program, lambda: peer.ask("fresh"), slow)


async def _ours(stack: contextlib.AsyncExitStack, environment: Environment) -> _Contestant:
    channel = (await environment.sandbox()).channels["unix"]
    call = runner(channel, CODES["x = 1"])
    sessions = {}

    async def program(name: str) -> float:
        if name not in sessions:
            sessions[name] = await stack.enter_async_context(open_session(channel))
            await sessions[name].run_cell(PROGRAMS[name])
            await sessions[name].run_cell("run() and None")
        result = await sessions[name].run_cell("answer = run()")
        return result.usage.cpu_time.ToNanoseconds() / 1e9

    async def fresh() -> float:
        start = time.perf_counter()
        await call()
        return time.perf_counter() - start

    return _Contestant(_OURS, program, fresh)


async def _measure(directory: Path) -> str:
    async with Environment(quick=False) as environment, contextlib.AsyncExitStack() as stack:
        native = await stack.enter_async_context(NativePrograms(PROGRAMS))
        peers = await _start_peers(stack, directory)
        contestants = [_Contestant(_NATIVE, native.run), await _ours(stack, environment)]
        contestants += [_of_peer(name, peer, slow=slow) for name, peer, slow in peers]
        for number in range(_ROUNDS):
            print(f"round {number + 1} of {_ROUNDS} ...", file=sys.stderr, flush=True)
            for one in contestants:
                if one.fresh is not None:
                    for _ in range(_FRESH_SLOW if one.slow else _FRESH):
                        one.fresh_times.append(await one.fresh())
            for program in PROGRAMS:
                for one in contestants:
                    await one.measure(program)
        rates = await _rates(stack, environment, {name: peer for name, peer, _ in peers})
    return _report(contestants, rates)


async def _rates(
    stack: contextlib.AsyncExitStack, environment: Environment, peers: dict[str, Peer]
) -> dict[str, list[float]]:
    """Measures fresh sandboxes a second, where more than one at a time makes sense."""
    load = await Load.of_clients(stack, await environment.sandbox(), "unix", 16, _RATE_SECONDS)
    rates: dict[str, list[float]] = {f"{_OURS}, 16 clients over gRPC": [], "pyeryx in process, 2 threads": []}
    await load.sample()
    for _ in range(3):
        rates[f"{_OURS}, 16 clients over gRPC"].append(await load.sample())
        if "pyeryx" in peers:
            rate = await peers["pyeryx"].ask("rate", for_seconds=_RATE_SECONDS, threads=2)
            rates["pyeryx in process, 2 threads"].append(rate)
    return {name: values for name, values in rates.items() if values}


def _report(contestants: list[_Contestant], rates: dict[str, list[float]]) -> str:
    native = {name: statistics.median(times) for name, times in contestants[0].times.items()}
    lines = ["| | " + " | ".join(one.name for one in contestants) + " |"]
    lines.append("| --- |" + " --- |" * len(contestants))
    lines.append("| fresh sandbox, `x = 1` | " + " | ".join(_fresh(one) for one in contestants) + " |")
    for program in PROGRAMS:
        cells = [_program(one, program, native) for one in contestants]
        lines.append(f"| `{program}` | {' | '.join(cells)} |")
    means = [
        _mean([statistics.median(times) / native[name] for name, times in one.times.items()]) for one in contestants
    ]
    lines.append("| geometric mean of those that run | " + " | ".join(means) + " |")
    lines.append("")
    lines += [f"- Fresh sandboxes a second, {name}: {statistics.median(values):.0f}." for name, values in rates.items()]
    failures = [
        f"- {one.name} does not run `{program}`: {reason}"
        for one in contestants
        for program, reason in one.failures.items()
    ]
    where = machine.describe()
    caption = f"Measured {where.date}, commit {where.commit}; native is the CPython that runs the server."
    return "\n".join([*lines, *failures, "", caption])


def _fresh(one: _Contestant) -> str:
    return f"{statistics.median(one.fresh_times) * 1e3:.2f} ms" if one.fresh_times else ""


def _program(one: _Contestant, program: str, native: dict[str, float]) -> str:
    if program not in one.times or program in one.failures:
        return "-"
    seconds = statistics.median(one.times[program])
    return f"{seconds * 1e3:.0f} ms" if one.name == _NATIVE else f"{seconds / native[program]:.2f} x"


def _mean(ratios: list[float]) -> str:
    return f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f} x ({len(ratios)})" if ratios else "-"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Measures the server beside its peers.")
    parser.add_argument("directory", type=Path, help="where scripts/bench_peers.sh installed them")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table between the markers of this file")
    options = parser.parse_args()
    busy = machine.busy_share()
    table = asyncio.run(_measure(options.directory.resolve()))
    table += f" Other programs kept {busy:.0%} of the processors busy before."
    print(table)
    if options.markdown:
        begin, end = "<!-- bench:peers -->", "<!-- bench:peers end -->"
        text = options.markdown.read_text(encoding="utf-8")
        if begin not in text or end not in text:
            parser.error(f"{options.markdown} has no place for it: add the lines {begin} and {end}")
        before, _, rest = text.partition(begin)
        options.markdown.write_text(f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


main()
