"""A soak: good and hostile load on a sandbox server for minutes; memory, threads and descriptors must not grow.

    python -m bench.soak [--minutes 10] [--clients 8] [--seed 1] [--json FILE] [--markdown FILE]

The time after the load has settled is parted into twelve. What counts is the least that a process had in each part:
what it had beyond that belonged to sandboxes that were alive just then. Prints the first and the last of these, the
greatest that was seen at all, and the slope of the line through them. Ends with 1 if a call went wrong, a worker was
lost, or something grew.
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

_SAMPLING_SECONDS = 2.0
_SETTLING_SHARE = 0.25
"""What of the time passes before the samples count: caches fill, threads start."""

_WINDOWS = 12

_GROWTH = {"memory, MiB": 2.0, "threads": 0.5, "descriptors": 0.5}
"""The slope a minute beyond which something is said to grow."""


@dataclass
class Track:
    """Samples of one thing that a process has.

    Attributes:
        seconds: when, since the beginning.
        values: how much.
    """

    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def settled(self, after_seconds: float) -> Track:
        """Returns the samples from a time on."""
        pairs = [pair for pair in zip(self.seconds, self.values, strict=True) if pair[0] >= after_seconds]
        return Track([second for second, _ in pairs], [value for _, value in pairs])

    def floors(self) -> Track:
        """Returns the least sample of each part of the time."""
        size = max(1, len(self.values) // _WINDOWS)
        starts = range(0, len(self.values) - size + 1, size)
        return Track([self.seconds[at] for at in starts], [min(self.values[at : at + size]) for at in starts])

    @property
    def slope_per_minute(self) -> float:
        """The slope of the line through the samples, by least squares."""
        return statistics.linear_regression(self.seconds, self.values).slope * 60


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
    rows = _rows(tracks, options.minutes * 60 * _SETTLING_SHARE)
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(load.done.items()))
    where = machine.describe()
    lines = [
        "| process | what | when settled | at the end | greatest | slope a minute |  |",
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
        running = [asyncio.create_task(load.run(start + seconds)) for _ in range(clients)]
        while (elapsed := time.monotonic() - start) < seconds:
            for pid, name in names.items():
                with contextlib.suppress(FileNotFoundError):
                    _sample(tracks, elapsed, pid, name)
            print(f"\r{elapsed:5.0f} s, {sum(load.done.values())} done", end="", file=sys.stderr, flush=True)
            await asyncio.sleep(_SAMPLING_SECONDS)
        print(file=sys.stderr)
        await asyncio.gather(*running)
        lost = len(set(first) - set(family(server.child.pid)))
    return tracks, load, lost


def _sample(tracks: dict[tuple[str, str], Track], elapsed: float, pid: int, name: str) -> None:
    readings = {"memory, MiB": rss_bytes(pid) / 2**20, "threads": threads(pid), "descriptors": descriptors(pid)}
    for what, value in readings.items():
        if value is not None:
            track = tracks.setdefault((name, what), Track())
            track.seconds.append(elapsed)
            track.values.append(value)


def _rows(tracks: dict[tuple[str, str], Track], settled_seconds: float) -> list[tuple[str, ...]]:
    rows = []
    for (process, what), track in tracks.items():
        floors = track.settled(settled_seconds).floors()
        slope = floors.slope_per_minute
        figures = (f"{value:.0f}" for value in (floors.values[0], floors.values[-1], max(track.values)))
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
