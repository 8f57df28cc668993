"""Functions that may be called again before they return are found, whatever the calls look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_server.image.call_cycles import in_cycles


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([], set()),
        ([set()], set()),
        ([{0}], {0}),
        ([{1}, {0}], {0, 1}),
        ([{1}, {2}, {0}, {0}], {0, 1, 2}),
        ([{1, 2}, {3}, {3}, set()], set()),
        ([{1}, {2}, {1}, {4}, {3}], {1, 2, 3, 4}),
    ],
    ids=["nothing", "alone", "itself", "two", "three and a caller", "a diamond", "two circles"],
)
def test_known_ones(calls: list[set[int]], expected: set[int]) -> None:
    assert in_cycles(calls) == expected


def test_a_chain_of_a_hundred_thousand_calls_is_no_trouble() -> None:
    count = 100_000
    chain = [{number + 1} for number in range(count - 1)]
    assert in_cycles([*chain, set()]) == set()
    assert len(in_cycles([*chain, {0}])) == count


@st.composite
def graphs(draw: st.DrawFn) -> list[set[int]]:
    count = draw(st.integers(1, 12))
    return [draw(st.sets(st.integers(0, count - 1))) for _ in range(count)]


@given(graphs())
def test_it_finds_just_those_that_reach_themselves(calls: list[set[int]]) -> None:
    reached = [set(called) for called in calls]
    for _ in calls:
        reached = [one.union(*(reached[other] for other in one)) for one in reached]
    assert in_cycles(calls) == {number for number, one in enumerate(reached) if number in one}
