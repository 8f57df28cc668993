"""Calls of `Run` take turns, and a long one keeps nobody."""

from __future__ import annotations

import threading

import pytest
from sandbox_server.worker.turns import Turns

_LONG_SECONDS = 30.0


def _start(
    turns: Turns, name: str, done: list[str], until: threading.Event, started: threading.Event
) -> threading.Thread:
    def work() -> None:
        with turns.taken():
            started.set()
            until.wait(_LONG_SECONDS)
            done.append(name)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def _wait_for_waiters(turns: Turns, count: int) -> None:
    tick = threading.Event()
    while len(turns._waiting) < count:
        tick.wait(0.001)


def test_turns_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    turns = Turns(at_once=1, patience_seconds=_LONG_SECONDS)
    done: list[str] = []
    first_may_end, others_may_end, started = threading.Event(), threading.Event(), threading.Event()
    others_may_end.set()
    threads = [_start(turns, "first", done, first_may_end, started)]
    started.wait(_LONG_SECONDS)
    for number, name in enumerate(["second", "third", "fourth"]):
        threads.append(_start(turns, name, done, others_may_end, threading.Event()))
        _wait_for_waiters(turns, number + 1)
    assert done == []
    first_may_end.set()
    for thread in threads:
        thread.join(_LONG_SECONDS)
    assert done == ["first", "second", "third", "fourth"]


def test_a_long_job_loses_its_turn_to_one_that_waited_and_later_ones_need_not_wait_for_it() -> None:
    turns = Turns(at_once=1, patience_seconds=0.01)
    done: list[str] = []
    hog_may_end, others_may_end, started = threading.Event(), threading.Event(), threading.Event()
    others_may_end.set()
    hog = _start(turns, "hog", done, hog_may_end, started)
    started.wait(_LONG_SECONDS)
    for name in ("short", "shorter"):
        _start(turns, name, done, others_may_end, threading.Event()).join(_LONG_SECONDS)
    assert done == ["short", "shorter"]
    assert turns._free == 1  # the hog has none any more
    hog_may_end.set()
    hog.join(_LONG_SECONDS)
    assert (turns._free, len(turns._holders)) == (1, 0)


def test_several_have_a_turn_at_once() -> None:
    turns = Turns(at_once=2, patience_seconds=_LONG_SECONDS)
    done: list[str] = []
    may_end = threading.Event()
    started = [threading.Event() for _ in range(2)]
    threads = [_start(turns, str(number), done, may_end, event) for number, event in enumerate(started)]
    assert all(event.wait(_LONG_SECONDS) for event in started)
    may_end.set()
    for thread in threads:
        thread.join(_LONG_SECONDS)
    assert sorted(done) == ["0", "1"]


def test_a_turn_is_given_back_if_the_job_fails() -> None:
    turns = Turns(at_once=1, patience_seconds=_LONG_SECONDS)
    with pytest.raises(ZeroDivisionError), turns.taken():
        raise ZeroDivisionError
    with turns.taken():
        assert turns._free == 0
    assert turns._free == 1
