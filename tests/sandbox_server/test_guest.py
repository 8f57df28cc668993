"""A guest and the C API beneath it, without a server: what crosses the border arrives, and errors are told apart."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING

import pytest
from sandbox_server.wasm.capi import TrapError
from sandbox_server.wasm.guest import End, GuestEndedError

from tests.sandbox_server.guests import MIB, Harness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ThreadPoolExecutor

    from sandbox_server.wasm.engine import GuestEngine


@pytest.fixture
def harness(engine: GuestEngine, on_thread: ThreadPoolExecutor) -> Iterator[Harness]:
    made = on_thread.submit(Harness, engine).result()
    yield made
    on_thread.submit(made.guest.close).result()


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("import time; print(time.time_ns())", "1700000000123456789\n"),
        ("import time; print(time.monotonic_ns())", "5000000000\n"),
        ("import os; print(os.urandom(0), os.urandom(300) == bytes(i % 256 for i in range(300)))", "b'' True\n"),
        ("import os; print(len(os.urandom(1_000_000)))", "1000000\n"),
        ("import time; time.sleep(1000); print('slept')", "slept\n"),
        ("import os; print(os.read(0, 10))", "b''\n"),
        ("import os, sys; print(dict(os.environ), sys.argv)", "{} ['']\n"),
        ("import os; print(os.isatty(0), os.isatty(1), os.isatty(2))", "False False False\n"),
        ("import select; print(select.select([], [1], [])[1])", "[1]\n"),
    ],
)
def test_what_wasi_gives_arrives_as_it_was(
    harness: Harness, on_thread: ThreadPoolExecutor, code: str, printed: str
) -> None:
    assert on_thread.submit(harness.printed, code).result() == printed


def test_bytes_past_sys_stdout_arrive_with_their_file(harness: Harness, on_thread: ThreadPoolExecutor) -> None:
    on_thread.submit(harness.run, "import os\n_ = os.write(1, 'ü\\0'.encode()), os.write(2, b'\\xff')").result()
    assert harness.events.output == [(1, "ü\0"), (2, "\\xff")]


@pytest.mark.parametrize(
    "text", ["", "\0", "ü€😀", "'\"\\\n\r\t", "x" * 5_000_000], ids=["empty", "nul", "wide", "quotes", "long"]
)
def test_text_arrives_as_it_was_both_ways(harness: Harness, on_thread: ThreadPoolExecutor, text: str) -> None:
    def run() -> str:
        harness.guest.load(json.dumps(text))
        harness.guest.handle(json.dumps({"do": "set_input", "name": "x", "format": "json"}))
        return harness.printed("print(f(x) == [x], len(x))")

    assert on_thread.submit(run).result() == f"True {len(text)}\n"
    assert harness.events.calls == [
        ("f", json.dumps({"args": [text], "kwargs": {}}, ensure_ascii=False, separators=(",", ":")))
    ]


def test_memory_is_told_in_bytes_and_grows_with_use(harness: Harness, on_thread: ThreadPoolExecutor) -> None:
    before = harness.guest.memory_bytes()
    on_thread.submit(harness.run, "x = bytearray(100_000_000)").result()
    after = harness.guest.memory_bytes()
    assert before % 65536 == after % 65536 == 0
    assert 20 * MIB < before < 64 * MIB
    assert 100_000_000 <= after - before < 120_000_000


def test_fuel_is_told_and_telling_memory_costs_none(harness: Harness, on_thread: ThreadPoolExecutor) -> None:
    harness.guest.set_fuel(10**9)
    on_thread.submit(harness.run, "x = 1").result()
    left = harness.guest.fuel
    assert 0 < 10**9 - left < 10**7
    harness.guest.memory_bytes()
    assert harness.guest.fuel == left


def ended(on_thread: ThreadPoolExecutor, harness: Harness, code: str) -> GuestEndedError:
    with pytest.raises(GuestEndedError) as error:
        on_thread.submit(harness.run, code).result()
    assert harness.guest.has_ended
    # It never runs again, and says why.
    with pytest.raises(GuestEndedError) as again:
        on_thread.submit(harness.run, "1").result()
    assert again.value is error.value
    assert harness.guest.memory_bytes() > 40 * MIB
    return error.value


def test_no_more_fuel_is_told_from_a_trap(harness: Harness, on_thread: ThreadPoolExecutor) -> None:
    harness.guest.set_fuel(10**8)
    error = ended(on_thread, harness, "for number in range(3_000_000): pass\nf()")
    assert (error.end, error.message) == (End.OUT_OF_FUEL, "all fuel was used")


def test_a_trap_tells_its_cause(harness: Harness, on_thread: ThreadPoolExecutor) -> None:
    error = ended(on_thread, harness, "import os; os.abort()")
    assert (error.end, error.message) == (End.TRAP, "wasm `unreachable` instruction executed")


@pytest.mark.parametrize("code", ["while True: pass", "f()\nwhile True: pass"])
def test_another_thread_can_end_it_while_it_runs(harness: Harness, on_thread: ThreadPoolExecutor, code: str) -> None:
    running = threading.Event()
    harness.events.on_call = running.set
    ending = threading.Thread(
        target=lambda: (running.wait(20), harness.guest.end(End.CANCELLED, "that is enough")), daemon=True
    )
    ending.start()
    error = ended(on_thread, harness, f"f()\n{code}")
    assert (error.end, error.message) == (End.CANCELLED, "that is enough")
    ending.join(20)


def test_one_that_was_ended_before_it_ran_does_not_run(harness: Harness, on_thread: ThreadPoolExecutor) -> None:
    harness.guest.end(End.DEADLINE, "first")
    harness.guest.end(End.CANCELLED, "second")
    error = ended(on_thread, harness, "f()")
    assert (error.end, error.message) == (End.DEADLINE, "first")
    assert harness.events.calls == []


def test_a_host_function_can_end_its_guest_with_a_trap(harness: Harness, on_thread: ThreadPoolExecutor) -> None:
    def refuse() -> None:
        raise TrapError("not with me: ü")

    harness.events.on_call = refuse
    error = ended(on_thread, harness, "f()")
    assert error.end is End.TRAP
    assert "not with me: ü" in error.message


def test_a_host_function_that_fails_is_logged_and_ends_its_guest_only(
    engine: GuestEngine, harness: Harness, on_thread: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    harness.events.on_call = fail
    with caplog.at_level(logging.ERROR):
        error = ended(on_thread, harness, "f()")
    assert "host function call-start failed" in error.message
    assert "ZeroDivisionError: a bug" in caplog.text
    other = on_thread.submit(Harness, engine).result()
    assert on_thread.submit(other.printed, "print(f(1))").result() == "[1]\n"
    on_thread.submit(other.guest.close).result()


def test_too_little_memory_for_the_interpreter_is_an_error_of_its_own(
    engine: GuestEngine, on_thread: ThreadPoolExecutor
) -> None:
    with pytest.raises(GuestEndedError) as error:
        on_thread.submit(Harness, engine, MIB).result()
    assert error.value.end is End.TRAP
    assert "memory" in error.value.message
