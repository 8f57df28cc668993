"""Takes samples of several things in turn, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

SECONDS = "s"
PER_SECOND = "/s"


@dataclass(frozen=True)
class Subject:
    """Something that can be measured again and again.

    Attributes:
        name: what it is, for people.
        sample: measures it once; returns one figure, or several if it can tell one from the other.
        transport: what the connection goes over, as `unix`; empty if there is none.
        block: how often it is measured in a row; None leaves that to the plan.
        unit: of what `sample` returns.
    """

    name: str
    sample: Callable[[], Awaitable[float | Sequence[float]]]
    transport: str = ""
    block: int | None = None
    unit: str = SECONDS


@dataclass(frozen=True)
class Plan:
    """How often things are measured.

    Attributes:
        rounds: how often each has its turn.
        block: how often it is measured in a turn.
        warm_up: how often it is measured before, without being counted.
    """

    rounds: int
    block: int = 1
    warm_up: int = 1


@dataclass
class Series:
    """What was measured of one subject.

    Attributes:
        name: the subject's.
        transport: the subject's.
        unit: of the samples: `s`, where less is better, or `/s`, where more is.
        rounds: the samples of each turn.
    """

    name: str
    transport: str = ""
    unit: str = SECONDS
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def samples(self) -> list[float]:
        """All samples, in order."""
        return [sample for samples in self.rounds for sample in samples]

    @property
    def round_medians(self) -> list[float]:
        """The median of each turn."""
        return [statistics.median(samples) for samples in self.rounds]

    @property
    def median(self) -> float:
        """The middle of all samples."""
        return statistics.median(self.samples)

    @property
    def tail(self) -> float:
        """What one sample in a hundred is worse than: the 99th percentile of times, the 1st of rates."""
        return percentile(self.samples, 99 if self.unit == SECONDS else 1)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Returns a percentile, by the nearest rank."""
    ordered = sorted(samples)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


async def interleave(subjects: Sequence[Subject], plan: Plan) -> list[Series]:
    """Measures the subjects in turns; the order is another in each round. Returns the series in the order given."""
    for subject in subjects:
        for _ in range(plan.warm_up):
            await subject.sample()
    gc.collect()
    gc.freeze()  # so that collections, which fall on whoever is measured then, have little to look at
    all_series = [Series(subject.name, subject.transport, subject.unit) for subject in subjects]
    for number in range(plan.rounds):
        for index in range(len(subjects)):
            chosen = (number + index) % len(subjects)
            all_series[chosen].rounds.append(await _take_block(subjects[chosen], plan.block))
    gc.unfreeze()
    return all_series


async def _take_block(subject: Subject, block: int) -> list[float]:
    samples: list[float] = []
    for _ in range(subject.block or block):
        taken = await subject.sample()
        if isinstance(taken, float):
            samples.append(taken)
        else:
            samples += taken
    return samples


def timed(call: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[float]]:
    """Returns a sampler of the time that a coroutine function takes."""

    async def sample() -> float:
        start = time.perf_counter()
        await call()
        return time.perf_counter() - start

    return sample
