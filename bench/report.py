"""Tables of results: for a terminal, and for docs/benchmarks.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench.measure import PER_SECOND

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measure import Series
    from bench.results import PartResult, Row, RunResult

_HEADERS = ("what", "over", "n", "p50", "p99", "floor", "its p50", "ratio", "rounds", "target", "")

_MACHINE = {
    "date": "Date",
    "commit": "Commit",
    "processor": "Processor",
    "memory": "Memory",
    "system": "System",
    "software": "Software",
    "busy_before": "Processors busy with other things before",
    "busy_after": "Processors busy with other things after",
}


class MarkerError(ValueError):
    """A document has no place for a table; the message says what to put there."""


def as_text(run: RunResult) -> str:
    """Returns everything for a terminal."""
    blocks = []
    for part in run.parts:
        table = [_HEADERS, *(_cells(row) for row in part.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(_HEADERS))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        ]
        pace = _pace(part).strip()
        blocks.append("\n".join([f"{part.name}: {part.title}", *lines, *part.notes, *([pace] if pace else [])]))
    return "\n\n".join(blocks)


def update_document(path: Path, run: RunResult) -> None:
    """Puts the tables between the markers of a document. What stands there of parts that were not run stays.

    Raises:
        MarkerError: a marker is missing.
    """
    text = path.read_text(encoding="utf-8")
    sections = {part.name: _section(part, run) for part in run.parts}
    sections["machine"] = "\n".join(
        ["| | |", "| --- | --- |", *(f"| {title} | {getattr(run.machine, key)} |" for key, title in _MACHINE.items())]
    )
    for name, section in sections.items():
        begin, end = f"<!-- bench:{name} -->", f"<!-- bench:{name} end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise MarkerError(f"{path} has no place for {name}: add the lines {begin} and {end}")
        text = pattern.sub(lambda _, section=section, begin=begin, end=end: f"{begin}\n{section}\n{end}", text)  # type: ignore[misc]
    path.write_text(text, encoding="utf-8")


def _section(part: PartResult, run: RunResult) -> str:
    table = [_HEADERS, ["---"] * len(_HEADERS), *(_cells(row) for row in part.rows)]
    lines = [f"| {' | '.join(line)} |" for line in table]
    quick = " With `--quick`: the counts are too small to mean anything." if run.quick else ""
    caption = f"Measured {run.machine.date}, commit {run.machine.commit}.{_pace(part)}{quick}"
    return "\n".join([*lines, "", *(f"- {note}" for note in part.notes), *([""] if part.notes else []), caption])


def _pace(part: PartResult) -> str:
    if part.loop_seconds is None:
        return ""
    before, after = part.loop_seconds
    return f" Ten million additions in Python took {before:.2f} s before, {after:.2f} s after."


def _cells(row: Row) -> tuple[str, ...]:
    subject, floor = row.subject, row.floor
    ratio, ratio_range = row.ratio, row.ratio_range
    return (
        subject.name,
        subject.transport,
        str(len(subject.samples)),
        _figure(subject, subject.median),
        _figure(subject, subject.tail),
        "" if floor is None else floor.name,
        "" if floor is None else _figure(floor, floor.median),
        "" if ratio is None else f"{ratio:.2f} x",
        "" if ratio_range is None else f"{ratio_range[0]:.2f} to {ratio_range[1]:.2f}",
        _target(row),
        {None: "", True: "met", False: "NOT met"}[row.met],
    )


def _figure(series: Series, value: float) -> str:
    if series.unit == PER_SECOND:
        return f"{value:.0f} /s"
    milliseconds = value * 1e3
    return f"{milliseconds:.3f} ms" if milliseconds < 10 else f"{milliseconds:.1f} ms"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    sign = "≥" if row.subject.unit == PER_SECOND else "≤"
    if not row.target.absolute:
        return f"{sign} {row.target.bound:g} x"
    if row.subject.unit == PER_SECOND:
        return f"{sign} {row.target.bound:g} /s"
    return f"{sign} {row.target.bound * 1e3:g} ms"
