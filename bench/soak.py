"""A soak: good and hostile load on a sandbox server for minutes; memory, threads and descriptors must not grow.

    python -m bench.soak [--minutes 10] [--clients 8] [--seed 1] [--json FILE] [--markdown FILE]

The load comes in sixteen bouts. What counts is what a process has when a bout is over and no sandbox is alive. Prints
that for the bout when the load had settled and for the last, the greatest that was seen at all, and the slope of the
line through them. Ends with 1 if a call went wrong, a worker was lost, or something grew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import random
import re
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine
from bench.environment import Environment
from bench.soak_load import Load
from bench.usage import descriptors, family, rss_bytes, threads

if TYPE_CHECKING:
    from collections.abc import Sequence

_BOUTS = 16
_SETTLING_BOUTS = 4
"""So many pass before what is there counts: caches fill, threads start."""

_SAMPLING_SECONDS = 0.5
_QUIET_SECONDS = 3.0

_GROWTH = {"memory, MiB": 2.0, "threads": 0.5, "descriptors": 0.5}
"""The slope a minute beyond which something is said to grow."""


@dataclass
class Track:
    """Samples of one thing that a process has.

    Attributes:
        seconds: when bouts were over, since the beginning.
        values: how much there was then.
        greatest: the most at any time.
    """

    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    greatest: float = 0.0

    @property
    def slope_per_minute(self) -> float:
        """The slope of the line through the samples once the load had settled, by least squares."""
        seconds, values = self.seconds[_SETTLING_BOUTS:], self.values[_SETTLING_BOUTS:]
        return statistics.linear_regression(seconds, values).slope * 60


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Good and hostile load for minutes.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8, help="how many things happen at once")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the load")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all samples go")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table between the markers of this file")
    options = parser.parse_args(arguments)
    tracks, load, lost = asyncio.run(_soak(options.minutes * 60, options.clients, options.seed))
    rows = _rows(tracks)
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(load.done.items()))
    where = machine.describe()
    lines = [
        "| process | what | idle when settled | idle at the end | greatest under load | idle, slope a minute |  |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"{options.minutes:g} minutes, {options.clients} clients: {done}.",
        f"Calls that went wrong: {len(load.failures)}. Workers lost: {lost}.",
        "",
        f"Measured {where.date}, commit {where.commit}.",
    ]
    print("\n".join([*lines, *load.failures[:20]]))
    if options.json:
        samples = {f"{process}, {what}": dataclasses.asdict(track) for (process, what), track in tracks.items()}
        options.json.write_text(
            json.dumps({"done": load.done, "failures": load.failures, "samples": samples}, indent=1)
        )
    if options.markdown:
        _update(options.markdown, "\n".join(lines))
    sys.exit(1 if load.failures or lost or any(row[-1] == "GROWS" for row in rows) else 0)


async def _soak(seconds: float, clients: int, seed: int) -> tuple[dict[tuple[str, str], Track], Load, int]:
    async with Environment(quick=False) as environment, contextlib.AsyncExitStack() as stack:
        server = await environment.start_sandbox(stack, "soak", "--workers", "2", "--max-sessions", str(clients + 4))
        first = family(server.child.pid)
        names = {pid: "server" if index == 0 else f"worker {index}" for index, pid in enumerate(first)}
        load = Load(server.channels["unix"], random.Random(seed))
        tracks: dict[tuple[str, str], Track] = {}
        start = time.monotonic()
        for bout in range(1, _BOUTS + 1):
            end = start + seconds * bout / _BOUTS
            running = [asyncio.create_task(load.run(end)) for _ in range(clients)]
            while time.monotonic() < end:
                _sample(tracks, names)
                await asyncio.sleep(_SAMPLING_SECONDS)
            await asyncio.gather(*running)
            await asyncio.sleep(_QUIET_SECONDS)
            _sample(tracks, names, time.monotonic() - start)
            print(f"bout {bout} of {_BOUTS}, {sum(load.done.values())} things done", file=sys.stderr, flush=True)
        lost = len(set(first) - set(family(server.child.pid)))
    return tracks, load, lost


def _sample(tracks: dict[tuple[str, str], Track], names: dict[int, str], seconds: float | None = None) -> None:
    """Looks at all processes; with a time, what they have is what they are left with after a bout."""
    for pid, name in names.items():
        with contextlib.suppress(FileNotFoundError):  # a process that is lost is counted elsewhere
            readings = {"memory, MiB": rss_bytes(pid) / 2**20, "threads": threads(pid), "descriptors": descriptors(pid)}
            for what, value in readings.items():
                if value is None:
                    continue
                track = tracks.setdefault((name, what), Track())
                track.greatest = max(track.greatest, value)
                if seconds is not None:
                    track.seconds.append(seconds)
                    track.values.append(value)


def _rows(tracks: dict[tuple[str, str], Track]) -> list[tuple[str, ...]]:
    rows = []
    for (process, what), track in tracks.items():
        slope = track.slope_per_minute
        figures = (f"{value:.0f}" for value in (track.values[_SETTLING_BOUTS], track.values[-1], track.greatest))
        rows.append((process, what, *figures, f"{slope:+.2f}", "GROWS" if slope > _GROWTH[what] else "flat"))
    return rows


def _update(path: Path, table: str) -> None:
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- bench:soak -->\n).*?(<!-- bench:soak end -->)", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"{path} has no place for the soak: add the lines <!-- bench:soak --> and <!-- bench:soak end -->")
    path.write_text(pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
