"""A guest and the C API beneath it, without a server: what crosses the border arrives, and errors are told apart."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_server.image.cache import default_cache_directory, load_or_build_image
from sandbox_server.wasm.capi import TrapError
from sandbox_server.wasm.engine import THREAD_STACK_BYTES, GuestEngine
from sandbox_server.wasm.guest import End, Guest, GuestEndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
NO_VARIABLES = {"include_all": False, "json_values": [], "preview_chars": 100}


class Surroundings:
    """Clocks that stand still and entropy that counts."""

    def monotonic_ns(self) -> int:
        return 5_000_000_000

    def wall_ns(self) -> int:
        return 1_700_000_000_123_456_789

    def real_wait_ns(self, until_monotonic_ns: int) -> int:
        return 0

    def random_bytes(self, count: int) -> bytes:
        return bytes(index % 256 for index in range(count))


class Events:
    """Keeps what the guest says, and answers host calls with their arguments."""

    def __init__(self) -> None:
        self.output: list[tuple[int, str]] = []
        self.calls: list[tuple[str, str]] = []
        self.on_call: Callable[[], None] = lambda: None

    def on_output(self, output: int, text: str) -> int:
        self.output.append((output, text))
        return 2**40

    def on_call_start(self, function: str, arguments: str) -> int:
        self.on_call()
        self.calls.append((function, arguments))
        return len(self.calls)

    def poll_answer(self, call_ids: list[int], *, gives_up: bool) -> str | None:
        value = json.loads(self.calls[call_ids[0] - 1][1])["args"]
        return json.dumps({"id": call_ids[0], "value": value}, ensure_ascii=False)

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.output)


class Harness:
    """A guest with one host function `f`, which returns its arguments."""

    def __init__(self, engine: GuestEngine, memory_bytes: int = 512 * MIB) -> None:
        self.events = Events()
        self.guest = Guest(engine, memory_bytes=memory_bytes, surroundings=Surroundings(), events=self.events)
        self.guest.handle(json.dumps({"do": "declare", "functions": [{"name": "f", "doc": "", "schema": ""}]}))

    def run(self, code: str) -> dict[str, Any]:
        self.guest.load(code)
        request = {"do": "run", "output_bytes": 2**40, "variables": NO_VARIABLES}
        result: dict[str, Any] = json.loads(self.guest.handle(json.dumps(request)))
        return result

    def printed(self, code: str) -> str:
        self.events.output.clear()
        result = self.run(code)
        assert result["outcome"] == "OK", result
        return self.events.text


@pytest.fixture(scope="module")
def engine() -> GuestEngine:
    return GuestEngine(load_or_build_image(default_cache_directory(), print).path)


@pytest.fixture
def on_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread with as much stack as guests need."""
    previous = threading.stack_size(THREAD_STACK_BYTES)
    with ThreadPoolExecutor(max_workers=1) as threads:
        threads.submit(int).result()
        threading.stack_size(previous)
        yield threads


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
        ("import os, sys; print(dict(os.environ), sys.argv)", "{} []\n"),
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
    assert harness.guest.memory_bytes() == 0
    return error.value


def test_no_more_fuel_is_told_from_a_trap(harness: Harness, on_thread: ThreadPoolExecutor) -> None:
    harness.guest.set_fuel(10**8)
    error = ended(on_thread, harness, "while True: pass")
    assert (error.end, error.message) == (End.OUT_OF_FUEL, "all fuel consumed by WebAssembly")


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
