"""The memory that one guest leaves behind is, for the next, as if it were new."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_server.beginnings import Beginnings
from sandbox_server.model import Limits, Outcome, SandboxSpec, VariableQuery
from sandbox_server.session import SandboxFactory, Session
from sandbox_server.wasm import open_image, pages
from sandbox_server.wasm.engine import make_config
from sandbox_server.wasm.memory_creator import LinearMemories
from sandbox_server.wasm.memory_image import PAGE_BYTES, MemoryImage, encode
from sandbox_server.wasm.watchdog import Watchdog
from wasmtime import Engine, Func, Instance, Module, Store, Trap, WasmtimeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

    from sandbox_server.wasm.engine import GuestEngine

PAGES = 6
CONTENT = bytes(range(1, 256)) * 600
"""Three pages' worth, but for a rest."""

MODULE = f"""
(module
  (memory (export "memory") {PAGES})
  (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
  (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
"""


class Machine:
    """An engine whose memories come from `LinearMemories`."""

    def __init__(self, path: Path) -> None:
        self.memories = LinearMemories(MemoryImage.read(path))
        config = make_config()
        self.memories.install(config)
        self._engine = Engine(config)
        self._module = Module(self._engine, MODULE)

    def instance(self) -> tuple[Store, Callable[..., Any]]:
        """Returns a store, and what calls the functions of the instance in it."""
        store = Store(self._engine)
        exports = Instance(store, self._module, []).exports(store)

        def call(name: str, *arguments: int) -> Any:
            function = exports[name]
            assert isinstance(function, Func)
            return function(store, *arguments)

        return store, call

    def content(self) -> bytes:
        """Returns all of the memory that was made last."""
        memory = self.memories.last_made()
        return ctypes.string_at(memory.base, memory.size)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine whose memories begin with `CONTENT` in their third page."""
    path = tmp_path / "image.memory"
    path.write_bytes(encode([(2 * PAGE_BYTES + 100, CONTENT)]))
    return Machine(path)


def pristine() -> bytes:
    return (b"\0" * (2 * PAGE_BYTES + 100) + CONTENT).ljust(PAGES * PAGE_BYTES, b"\0")


def test_a_memory_begins_with_the_image_and_zeros(machine: Machine) -> None:
    machine.instance()
    assert machine.content() == pristine()


@pytest.mark.parametrize(
    ("start", "count"),
    [(0, 1), (2 * PAGE_BYTES + 100, 1), (2 * PAGE_BYTES - 5, 10), (5 * PAGE_BYTES - 1, 2), (0, PAGES * PAGE_BYTES)],
    ids=["zeros", "image", "across its start", "across its end", "everything"],
)
def test_what_a_guest_wrote_is_gone_for_the_next(machine: Machine, start: int, count: int) -> None:
    store, call = machine.instance()
    call("fill", start, 7, count)
    assert machine.content() != pristine()
    first = machine.memories.last_made()
    store.close()
    machine.instance()
    assert machine.memories.last_made() is first
    assert machine.content() == pristine()


def test_the_same_holds_where_more_was_written_than_is_kept(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_image, "KEPT_PAGES", 3)
    store, call = machine.instance()
    call("fill", 0, 7, PAGES * PAGE_BYTES)
    store.close()
    machine.instance()
    assert machine.content() == pristine()


def test_the_same_holds_where_the_kernel_does_not_tell_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.memory"
    path.write_bytes(encode([(2 * PAGE_BYTES + 100, CONTENT)]))

    def fail(*_arguments: object) -> None:
        raise OSError("no such thing here")

    monkeypatch.setattr(pages.Pagemap, "find_own", fail)
    machine = Machine(path)
    store, call = machine.instance()
    call("fill", 0, 7, PAGES * PAGE_BYTES)
    store.close()
    machine.instance()
    assert machine.content() == pristine()


def test_what_a_guest_grew_by_is_out_of_bounds_for_the_next_and_zero_when_it_grows_too(machine: Machine) -> None:
    store, call = machine.instance()
    assert call("grow", 3) == PAGES
    call("fill", PAGES * PAGE_BYTES, 7, 3 * PAGE_BYTES)
    store.close()
    _, call = machine.instance()
    with pytest.raises(Trap, match="out of bounds memory access"):
        call("load", PAGES * PAGE_BYTES)
    assert call("grow", 3) == PAGES
    assert machine.content() == pristine() + bytes(3 * PAGE_BYTES)


@pytest.mark.parametrize("address", [PAGES * PAGE_BYTES, 2**31 - 1, -1], ids=["just beyond", "half way", "last byte"])
def test_an_access_out_of_bounds_is_a_trap(machine: Machine, address: int) -> None:
    _, call = machine.instance()
    with pytest.raises(Trap, match="out of bounds memory access"):
        call("load", address)


def live_together(machine: Machine, count: int) -> None:
    stores = [machine.instance()[0] for _ in range(count)]
    assert machine.memories.counts()[0] == count
    for store in stores:
        store.close()


def test_memories_are_kept_up_to_a_number_and_the_others_freed(machine: Machine) -> None:
    live_together(machine, 134)
    assert machine.memories.counts() == (0, 128)


def test_memories_that_nobody_needs_for_a_while_are_freed_but_for_a_few(machine: Machine) -> None:
    live_together(machine, 12)
    machine.memories.release_unneeded()
    assert machine.memories.counts() == (0, 12)  # they have just been used
    live_together(machine, 5)
    machine.memories.release_unneeded()
    assert machine.memories.counts() == (0, 5)
    for _ in range(2):
        machine.memories.release_unneeded()
    assert machine.memories.counts() == (0, 4)


def test_a_memory_over_the_limit_of_its_store_is_not_made(machine: Machine) -> None:
    store = Store(machine._engine)
    store.set_limits(memory_size=PAGES * PAGE_BYTES - 1)
    with pytest.raises(WasmtimeError, match="exceeds memory limits"):
        Instance(store, machine._module, [])
    assert machine.memories.counts() == (0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="memories are looked into as Linux has them")
def test_nothing_of_a_session_is_left_in_the_memory_that_the_next_one_gets(
    engine: GuestEngine, on_thread: ThreadPoolExecutor
) -> None:
    watchdog = Watchdog()
    factory = SandboxFactory(engine, watchdog, Beginnings(engine))
    secret = b"Zq7-secret-of-the-first-session"

    def run(code: str) -> tuple[int, bytes]:
        session = Session(factory, SandboxSpec(), None)
        session.open()
        result = session.run_once(code, Limits(), VariableQuery())
        memory = session._live()._guest._memory
        content = ctypes.string_at(memory.base, memory.size)
        session.close()
        assert result.outcome is Outcome.OK
        return memory.base, content

    def both() -> tuple[tuple[int, bytes], tuple[int, bytes]]:
        spelled = secret.decode().replace("-", "_")
        kept = f"texts = ['{spelled}'.replace('_', '-') + str(i) for i in range(1000)]\nlarge = texts[0] * 100_000"
        return run(kept), run("x = 1")

    (first_base, first), (second_base, second) = on_thread.submit(both).result()
    assert first_base == second_base
    assert first.count(secret) > 100_000
    assert secret not in second
    assert b"secret_of_the_first" not in second
    watchdog.close()


def test_a_file_that_is_no_memory_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.memory"
    path.write_bytes(b"something else".ljust(PAGE_BYTES))
    with pytest.raises(ValueError, match="is not the image of a memory"):
        MemoryImage.read(path)
