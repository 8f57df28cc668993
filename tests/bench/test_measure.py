"""How samples are taken and judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.machine import describe
from bench.measure import PER_SECOND, Plan, Series, Subject, interleave, percentile
from bench.report import MarkerError, update_document
from bench.results import PartResult, Row, RunResult, Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def _series(*samples: float, unit: str = "s") -> Series:
    return Series("some", unit=unit, rounds=[[sample] for sample in samples])


async def test_every_subject_has_its_turn_in_each_round_and_each_begins_a_round_once() -> None:
    calls: list[str] = []

    def sampler(name: str) -> Callable[[], Awaitable[float]]:
        async def sample() -> float:
            calls.append(name)
            return float(len(calls))

        return sample

    subjects = [Subject(name, sampler(name)) for name in "abc"]
    series = await interleave(subjects, Plan(rounds=3, block=2, warm_up=1))

    assert "".join(calls) == "abc" + "aabbcc" + "bbccaa" + "ccaabb"
    assert [len(one.samples) for one in series] == [6, 6, 6]


async def test_a_subject_may_return_several_samples_at_once() -> None:
    async def sample() -> list[float]:
        return [1.0, 2.0]

    (series,) = await interleave([Subject("some", sample)], Plan(rounds=2))
    assert series.rounds == [[1.0, 2.0], [1.0, 2.0]]


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (100, 100)])
def test_percentiles_go_by_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile(range(100, 0, -1), percent) == expected


def test_the_tail_of_times_is_the_slowest_and_that_of_rates_the_lowest() -> None:
    figures = [float(number) for number in range(1, 101)]
    assert _series(*figures).tail == 99
    assert _series(*figures, unit=PER_SECOND).tail == 1


def test_a_ratio_is_median_to_median_with_the_range_of_the_rounds() -> None:
    row = Row(_series(2, 4, 6), _series(1, 2, 2))
    assert row.ratio == 2
    assert row.ratio_range == (2, 3)


@pytest.mark.parametrize(
    ("subject", "target", "met"),
    [
        (_series(2), Target(2.0), True),
        (_series(2.1), Target(2.0), False),
        (_series(2), Target(0.01, absolute=True), False),
        (_series(700, unit=PER_SECOND), Target(600, absolute=True), True),
        (_series(500, unit=PER_SECOND), Target(600, absolute=True), False),
        (_series(2), None, None),
    ],
)
def test_a_target_bounds_times_from_above_and_rates_from_below(
    subject: Series, target: Target | None, met: bool | None
) -> None:
    assert Row(subject, _series(1), target).met is met


def test_a_document_without_a_place_for_a_table_is_refused_and_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("nothing")
    part = PartResult("fresh-run", "title", [Row(_series(1))])
    with pytest.raises(MarkerError, match="no place for fresh-run: add the lines <!-- bench:fresh-run -->"):
        update_document(document, RunResult("python -m bench", quick=True, machine=describe(), parts=[part]))
    assert document.read_text() == "nothing"


def test_a_table_says_how_fast_the_machine_was(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(
        "\n".join(f"<!-- bench:{name} -->\n<!-- bench:{name} end -->" for name in ("fresh-run", "machine"))
    )
    part = PartResult("fresh-run", "title", [Row(_series(1))], loop_seconds=(0.28, 0.314))
    update_document(document, RunResult("python -m bench", quick=False, machine=describe(), parts=[part]))
    assert "Ten million additions in Python took 0.28 s before, 0.31 s after." in document.read_text()
