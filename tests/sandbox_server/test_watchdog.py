"""Alarms: on time, in order, and not at all once they are cancelled."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

import pytest
from sandbox_server.wasm.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    running = Watchdog()
    yield running
    running.close()


def test_alarms_ring_in_the_order_of_their_times(watchdog: Watchdog) -> None:
    rung: queue.Queue[str] = queue.Queue()
    watchdog.set_alarm(0.2, lambda: rung.put("third"))
    watchdog.set_alarm(0.1, lambda: rung.put("second"))
    watchdog.set_alarm(0.0, lambda: rung.put("first"))
    assert [rung.get(timeout=20) for _ in range(3)] == ["first", "second", "third"]


def test_a_cancelled_alarm_does_not_ring_and_holds_up_no_other(watchdog: Watchdog) -> None:
    rung: queue.Queue[str] = queue.Queue()
    cancelled = watchdog.set_alarm(0.05, lambda: rung.put("cancelled"))
    watchdog.set_alarm(0.1, lambda: rung.put("other"))
    cancelled.cancel()
    cancelled.cancel()
    assert rung.get(timeout=20) == "other"
    assert rung.empty()


def test_an_alarm_may_be_set_while_the_watchdog_waits_for_a_later_one(watchdog: Watchdog) -> None:
    rung: queue.Queue[str] = queue.Queue()
    watchdog.set_alarm(3600, lambda: rung.put("later"))
    watchdog.set_alarm(0.01, lambda: rung.put("sooner"))
    assert rung.get(timeout=20) == "sooner"


def test_alarms_that_were_cancelled_are_forgotten_long_before_their_time(watchdog: Watchdog) -> None:
    kept = [watchdog.set_alarm(3600, print) for _ in range(10)]
    for _ in range(50_000):
        watchdog.set_alarm(3600, print).cancel()
    assert len(watchdog._alarms) <= 1001
    assert sum(alarm.action is not None for _, _, alarm in watchdog._alarms) == len(kept)


def test_alarms_from_many_threads_all_ring(watchdog: Watchdog) -> None:
    rung = threading.Semaphore(0)

    def set_many() -> None:
        for number in range(500):
            watchdog.set_alarm(number / 10_000, rung.release)

    threads = [threading.Thread(target=set_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(rung.acquire(timeout=20) for _ in range(2000))


def test_a_closed_watchdog_has_no_thread_and_rings_no_more() -> None:
    before = threading.active_count()
    watchdog = Watchdog()
    rung: list[str] = []
    watchdog.set_alarm(3600, lambda: rung.append("rung"))
    watchdog.close()
    assert threading.active_count() == before
    assert rung == []
