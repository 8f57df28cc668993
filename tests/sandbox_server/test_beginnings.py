"""Sessions begin with what their prelude left behind, and nobody can tell but by the time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_server.beginnings import Beginnings
from sandbox_server.model import (
    HostFunction,
    Input,
    Limits,
    Outcome,
    SandboxSpec,
    SessionState,
    ValueFormat,
    VariableQuery,
)
from sandbox_server.opening import SandboxOpenError
from sandbox_server.session import SandboxFactory, Session
from sandbox_server.wasm.watchdog import Watchdog

from sandbox_server import beginnings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ThreadPoolExecutor

    from sandbox_server.model import CellResult, Usage
    from sandbox_server.wasm.engine import GuestEngine

PRELUDE = """
import random
__all__ = ["greet", "seen"]
seen = []
def greet(name):
    seen.append(name)
    return f"{greeting}, {name}"
def after_cell():
    return seen
"""
SPEC = SandboxSpec(
    host_functions=[HostFunction("ask", "Asks.")],
    prelude=PRELUDE,
    prelude_setup="greeting = variables['word']",
    inputs=[Input("word", ValueFormat.TEXT, b"Hello")],
)


class Room:
    """Opens sessions, one after the other, on a thread that has the stack for them."""

    def __init__(self, engine: GuestEngine, watchdog: Watchdog, thread: ThreadPoolExecutor) -> None:
        self.factory = SandboxFactory(engine, watchdog, Beginnings(engine))
        self._thread = thread

    def run(self, spec: SandboxSpec, *cells: str) -> tuple[Usage, list[CellResult]]:
        """Returns what opening a session cost, and the results of its cells."""
        return self._thread.submit(self._run, spec, cells).result()

    def _run(self, spec: SandboxSpec, cells: tuple[str, ...]) -> tuple[Usage, list[CellResult]]:
        session = Session(self.factory, spec, None)
        try:
            usage = session.open()
            results = []
            for cell in cells:
                result, _ = session.run_cell(cell, spec.limits, VariableQuery())
                results.append(result)
            return usage, results
        finally:
            session.close()

    def forget(self) -> None:
        """Has the next session run its prelude."""
        self.factory = dataclasses.replace(self.factory, beginnings=Beginnings(self.factory.engine))


@pytest.fixture
def room(engine: GuestEngine, on_thread: ThreadPoolExecutor) -> Iterator[Room]:
    watchdog = Watchdog()
    yield Room(engine, watchdog, on_thread)
    watchdog.close()


def is_kept(room: Room, spec: SandboxSpec) -> bool:
    return room.factory.beginnings.find(spec) is not None


def told(results: list[CellResult]) -> list[Any]:
    """Returns what clients are told, but for times."""
    times = {"wall_time_seconds": 0.0, "cpu_time_seconds": 0.0}
    return [dataclasses.replace(one, usage=dataclasses.replace(one.usage, **times)) for one in results]


CELLS = ("greet('you')", "greet = None", "greet('all'), ask.__doc__, word", "seen")


def test_a_session_that_begins_so_is_told_the_same_for_the_same_fuel_as_one_that_ran_its_prelude(room: Room) -> None:
    first_usage, first = room.run(SPEC, *CELLS)
    assert is_kept(room, SPEC)
    second_usage, second = room.run(SPEC, *CELLS)
    assert [one.value_repr for one in first] == [
        "'Hello, you'",
        None,
        "('Hello, all', 'Asks.', 'Hello')",
        "['you', 'all']",
    ]
    assert told(second) == told(first)
    assert second_usage.memory_bytes == first_usage.memory_bytes
    assert second_usage.fuel > 0


def test_what_one_session_does_is_not_seen_in_the_next(room: Room) -> None:
    for _ in range(3):
        _, results = room.run(SPEC, "seen.append('here'); import json; json.left = 1; seen", "hasattr(json, 'left')")
        assert results[0].value_repr == "['here']"
    _, results = room.run(SPEC, "import json; hasattr(json, 'left'), seen")
    assert results[0].value_repr == "(False, [])"


def test_inputs_and_setup_are_each_session_s_own(room: Room) -> None:
    room.run(SPEC, "1")
    other = dataclasses.replace(SPEC, inputs=[Input("word", ValueFormat.TEXT, b"Bye")])
    _, results = room.run(other, "greet('you')")
    assert results[0].value_repr == "'Bye, you'"


def test_chance_differs_from_session_to_session(room: Room) -> None:
    draws = {room.run(SPEC, "import random, uuid; random.random(), uuid.uuid4()")[1][0].value_repr for _ in range(3)}
    assert len(draws) == 3


def test_chance_makes_no_difference_to_the_fuel_of_the_first_cell(room: Room) -> None:
    used = {room.run(SPEC, "1 + 1")[1][0].usage.fuel for _ in range(50)}
    assert len(used) == 1


def test_a_seed_gives_the_same_whether_the_prelude_ran_or_not(room: Room) -> None:
    seeded = dataclasses.replace(SPEC, seed=7, clock_start_ns=10**18)
    cell = "import random, time, uuid; random.random(), uuid.uuid4(), time.time_ns()"
    first = told(room.run(seeded, cell)[1])
    again = told(room.run(seeded, cell)[1])
    room.forget()
    assert told(room.run(seeded, cell)[1]) == first == again


@pytest.mark.parametrize(
    "prelude",
    [
        "import time; started = time.time()",
        "import os; token = os.urandom(8)",
        "import random; number = random.random()",
        "import random; random.seed(1)",
        "open('note', 'w').close()",
        "import os; names = os.listdir('.')",
        "import sys; print('hello')",
    ],
    ids=["clock", "entropy", "random", "random seeded", "file", "directory", "output"],
)
def test_a_prelude_that_asks_the_host_or_chance_for_anything_runs_each_time(room: Room, prelude: str) -> None:
    spec = SandboxSpec(prelude=prelude)
    _, results = room.run(spec, "1 + 1")
    assert results[0].value_repr == "2"
    assert not is_kept(room, spec)


def test_a_killed_cell_of_such_a_session_is_undone(room: Room) -> None:
    room.run(SPEC, "1")

    def work() -> tuple[CellResult, SessionState, str | None]:
        session = Session(room.factory, SPEC, None)
        session.open()
        session.run_cell("greet('you')", Limits(), VariableQuery())
        killed, restoration = session.run_cell("seen.clear()\nwhile True: pass", Limits(fuel=10**7), VariableQuery())
        after, _ = session.run_cell("seen, word", Limits(), VariableQuery())
        session.close()
        return killed, restoration.state, after.value_repr

    killed, state, after = room._thread.submit(work).result()
    assert killed.outcome is Outcome.OUT_OF_FUEL
    assert state is SessionState.RESTORED
    assert after == "(['you'], 'Hello')"


def test_other_host_functions_or_another_source_are_another_beginning(room: Room) -> None:
    room.run(SPEC, "1")
    for changed in (
        dataclasses.replace(SPEC, host_functions=[HostFunction("ask", "Asks again.")]),
        dataclasses.replace(SPEC, host_functions=[]),
        dataclasses.replace(SPEC, prelude=PRELUDE + "\n"),
    ):
        assert not is_kept(room, changed)
    assert is_kept(room, dataclasses.replace(SPEC, prelude_setup="", inputs=[], limits=Limits(fuel=10**9)))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prelude": "1 / 0"}, "prelude.source"),
        ({"prelude_setup": "1 / 0"}, "prelude.setup"),
        ({"prelude": "__all__ = ['missing']", "prelude_setup": ""}, "prelude.source"),
        ({"limits": Limits(memory_bytes=45 << 20), "prelude": "rows = [bytes(1 << 20) for _ in range(6)]"}, "prelude"),
    ],
    ids=["source", "setup", "names", "memory"],
)
def test_one_that_fails_fails_each_time_and_says_where(room: Room, change: dict[str, Any], field: str) -> None:
    for _ in range(2):
        with pytest.raises(SandboxOpenError) as error:
            room.run(dataclasses.replace(SPEC, **change), "1")
        assert error.value.field.startswith(field)


def test_a_limit_of_memory_that_its_prelude_does_not_fit_into_holds_for_a_kept_one_too(room: Room) -> None:
    large = dataclasses.replace(SPEC, prelude=PRELUDE + "rows = [bytes(1 << 20) for _ in range(6)]\n")
    room.run(large, "1")
    assert is_kept(room, large)
    with pytest.raises(SandboxOpenError):
        room.run(dataclasses.replace(large, limits=Limits(memory_bytes=45 << 20)), "1")


def test_one_that_leaves_too_much_behind_is_not_kept(room: Room) -> None:
    huge = dataclasses.replace(SPEC, prelude=PRELUDE + "rows = [b'x' * (1 << 20) for _ in range(20)]\n")
    room.run(huge, "1")
    assert not is_kept(room, huge)


def test_the_least_recently_used_are_forgotten(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [SandboxSpec(prelude=f"x = {number}") for number in range(3)]
    room.run(specs[0], "x")
    first = room.factory.beginnings.find(specs[0])
    assert first is not None
    monkeypatch.setattr(beginnings, "_MAX_ALL_BYTES", int(2.5 * first.memory.size_bytes))
    room.run(specs[1], "x")
    room.run(specs[0], "x")
    room.run(specs[2], "x")
    assert [is_kept(room, spec) for spec in specs] == [True, False, True]
