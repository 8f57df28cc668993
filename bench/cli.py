"""The command line: `python -m bench [PART...] [--quick] [--json FILE] [--markdown FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime as dt
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, report
from bench.environment import Environment
from bench.parts import PARTS
from bench.results import PartResult, RunResult

if TYPE_CHECKING:
    from collections.abc import Sequence

_BUSY_SHARE = 0.1
_RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the servers against their floors.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny counts: shows that it works, measures nothing")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: a file named after the time in bench/results"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the tables between the markers of this file")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")

    names = [name for name in PARTS if name in options.parts] or list(PARTS)
    started = dt.datetime.now(tz=dt.UTC)
    where = machine.describe()
    if not options.quick:
        where = dataclasses.replace(where, busy_before=_look())
    parts = asyncio.run(_measure(names, quick=options.quick))
    command = " ".join(["python -m bench", *options.parts, *(["--quick"] if options.quick else [])])
    if not options.quick:
        where = dataclasses.replace(where, busy_after=_look())
    run = RunResult(command, options.quick, where, parts)

    target = options.json or _RESULTS / f"{started:%Y%m%dT%H%M%SZ}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(run.to_json(), indent=1) + "\n", encoding="utf-8")
    print(report.as_text(run))
    print(f"\n{target} has all of it.")
    if options.markdown:
        try:
            report.update_document(options.markdown, run)
        except (OSError, report.MarkerError) as error:
            parser.error(f"--markdown: {error}")


def _look() -> str:
    """Says how busy the machine is, and complains if it is."""
    share = machine.busy_share()
    if share > _BUSY_SHARE:
        print(f"other programs use {share:.0%} of the processors: trust ratios, not single figures", file=sys.stderr)
    return f"{share:.0%}"


async def _measure(names: Sequence[str], *, quick: bool) -> list[PartResult]:
    results = []
    async with Environment(quick=quick) as environment:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            if quick:
                results.append(await PARTS[name](environment))
                continue
            before = machine.loop_seconds()
            result = await PARTS[name](environment)
            results.append(dataclasses.replace(result, loop_seconds=(before, machine.loop_seconds())))
    return results
