"""What a run of the benchmarks found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.measure import PER_SECOND, Series, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.machine import Machine


@dataclass(frozen=True)
class Target:
    """What is wanted of a row.

    Attributes:
        bound: the ratio to the floor, or with `absolute` the value itself.
        absolute: whether the median itself is judged, and not its ratio to the floor.
    """

    bound: float
    absolute: bool = False


@dataclass(frozen=True)
class Row:
    """A figure beside its floor.

    Attributes:
        subject: what was measured.
        floor: the least that it could be, measured in turns with it; None if there is no such thing.
        target: what is wanted; None if the figure is for information.
    """

    subject: Series
    floor: Series | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Median to median."""
        return None if self.floor is None else self.subject.median / self.floor.median

    @property
    def ratio_range(self) -> tuple[float, float] | None:
        """Between what ratios eight of ten rounds were: how far the ratio can be trusted."""
        if self.floor is None:
            return None
        pairs = zip(self.subject.round_medians, self.floor.round_medians, strict=False)
        ratios = [subject / floor for subject, floor in pairs]
        return percentile(ratios, 10), percentile(ratios, 90)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        value = self.subject.median if self.target.absolute else self.ratio
        if value is None:
            raise ValueError(f"{self.subject.name} has a target for its ratio, but no floor")
        more_is_better = self.subject.unit == PER_SECOND
        return value >= self.target.bound if more_is_better else value <= self.target.bound


@dataclass(frozen=True)
class PartResult:
    """What one part found.

    Attributes:
        name: the part's, as on the command line.
        title: for people.
        rows: the figures.
        notes: more that was found, a sentence each.
        details: the same for programs.
        loop_seconds: how long `machine.loop_seconds` took just before and just after; None if nobody looked.
    """

    name: str
    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    details: dict[str, Any] = field(default_factory=dict)
    loop_seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class RunResult:
    """What one run found.

    Attributes:
        command: reproduces it.
        quick: whether the counts were too small to mean anything.
        machine: where and when it took place.
        parts: what was measured.
    """

    command: str
    quick: bool
    machine: Machine
    parts: Sequence[PartResult]

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON; times are in seconds."""
        return {
            "command": self.command,
            "quick": self.quick,
            "machine": dataclasses.asdict(self.machine),
            "parts": [
                {
                    "name": part.name,
                    "title": part.title,
                    "rows": [_row_json(row) for row in part.rows],
                    "notes": list(part.notes),
                    "details": part.details,
                    "loop_seconds": part.loop_seconds,
                }
                for part in self.parts
            ],
        }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "subject": _series_json(row.subject),
        "floor": None if row.floor is None else _series_json(row.floor),
        "ratio": row.ratio,
        "ratio_range": row.ratio_range,
        "target": None if row.target is None else {"bound": row.target.bound, "absolute": row.target.absolute},
        "met": row.met,
    }


def _series_json(series: Series) -> dict[str, Any]:
    samples = series.samples
    return {
        "name": series.name,
        "transport": series.transport,
        "unit": series.unit,
        "count": len(samples),
        "min": min(samples),
        "p50": series.median,
        "p90": percentile(samples, 90),
        "p99": percentile(samples, 99),
        "max": max(samples),
        "mean": sum(samples) / len(samples),
        "round_medians": series.round_medians,
    }
