"""Code counts its own fuel: as much for the same work each time, and no loop or recursion goes without."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_server.image.linking.wasm_format import UnsupportedFormatError
from sandbox_server.image.metering import MOST_UNITS, add_metering
from sandbox_server.wasm.engine import make_config
from sandbox_server.wasm.memory_creator import LinearMemories
from sandbox_server.wasm.memory_image import MemoryImage, encode
from wasmtime import Engine, Func, Instance, Module, Store, Trap, wat2wasm

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_server.wasm.fuel_page import FuelPage

MODULE = f"""
(module
  (memory (export "memory") 2)
  (table 2 funcref)
  (elem (i32.const 0) $recurse $long)
  (type $plain (func))
  (func (export "nothing"))
  (func $calls (export "calls") (call $empty) (call $empty))
  (func $empty)
  (func (export "count") (param $n i32) (result i32)
    (loop $again
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (local.get $n)))
    (local.get $n))
  (func (export "nested") (param $n i32)
    (local $m i32)
    (loop $outer
      (local.set $m (i32.const 10))
      (loop $inner
        (local.set $m (i32.sub (local.get $m) (i32.const 1)))
        (br_if $inner (local.get $m)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $outer (local.get $n))))
  (func (export "switch") (param $n i32) (result i64)
    (block $two (block $one (block $zero
      (br_table $zero $one $two (local.get $n)))
      (return (i64.const 10)))
      (return (i64.const 11)))
    (i64.const 12))
  (func $long (export "long") {"(drop (i32.const 1))" * 500})
  (func $itself (export "itself") (param $n i32)
    (if (local.get $n) (then (call $itself (i32.sub (local.get $n) (i32.const 1))))))
  (func $forever (export "forever") (call $back))
  (func $back (call $forever))
  (func (export "spin") (loop $again (br $again)))
  (func $recurse (export "recurse") (call_indirect (type $plain) (i32.const 0)))
  (func (export "beyond") (result i32) (i32.load (i32.const 131072))))
"""


class Metered:
    """An instance of the module."""

    def __init__(self, path: Path) -> None:
        memories = LinearMemories(MemoryImage.read(path))
        config = make_config()
        memories.install(config)
        engine = Engine(config)
        self._store = Store(engine)
        self._exports = Instance(self._store, Module(engine, add_metering(bytes(wat2wasm(MODULE)))), []).exports(
            self._store
        )
        self._keep = memories
        self.fuel: FuelPage = memories.last_made().fuel

    def call(self, name: str, *arguments: int) -> Any:
        function = self._exports[name]
        assert isinstance(function, Func)
        return function(self._store, *arguments)

    def used(self, name: str, *arguments: int) -> int:
        """Returns the fuel that a call uses."""
        self.fuel.set(10**9)
        self.call(name, *arguments)
        return 10**9 - self.fuel.left


@pytest.fixture
def metered(tmp_path: Path) -> Metered:
    path = tmp_path / "image.memory"
    path.write_bytes(encode([(0, b"x")]))
    return Metered(path)


def test_the_code_does_what_it_did(metered: Metered) -> None:
    assert metered.call("count", 1000) == 0
    assert [metered.call("switch", number) for number in (0, 1, 2, 99)] == [10, 11, 12, 12]


def test_each_iteration_costs_its_instructions_and_a_function_those_outside_loops(metered: Metered) -> None:
    iteration = metered.used("count", 2) - metered.used("count", 1)
    assert iteration == 7
    assert metered.used("count", 1001) - metered.used("count", 1) == 1000 * iteration


def test_an_inner_loop_costs_for_itself(metered: Metered) -> None:
    assert metered.used("nested", 3) - metered.used("nested", 2) == metered.used("nested", 2) - metered.used(
        "nested", 1
    )
    assert metered.used("nested", 2) - metered.used("nested", 1) == 10 * 7 + 10


def test_a_function_that_is_called_by_name_only_costs_nothing_itself(metered: Metered) -> None:
    assert metered.used("nothing") == 0
    assert metered.used("calls") == 0


def test_a_function_that_calls_itself_costs_for_each_call(metered: Metered) -> None:
    once = metered.used("itself", 1) - metered.used("itself", 0)
    assert once > 0
    assert metered.used("itself", 100) - metered.used("itself", 0) == 100 * once


def test_a_long_function_costs_no_more_than_the_most(metered: Metered) -> None:
    assert metered.used("long") == MOST_UNITS


def test_what_uses_more_than_there_was_goes_on_below_zero(metered: Metered) -> None:
    metered.fuel.set(100)
    metered.call("count", 1000)
    assert metered.fuel.left == 100 - metered.used("count", 1000)


@pytest.mark.parametrize("name", ["spin", "recurse", "forever"])
def test_whatever_runs_is_stopped_from_another_thread(metered: Metered, name: str) -> None:
    metered.fuel.set(2**62)
    stop = threading.Timer(0.0, metered.fuel.stop)
    stop.start()
    with pytest.raises(Trap, match=r"out of bounds memory access|stack exhausted"):
        metered.call(name)
    stop.join()


def test_what_is_stopped_stays_so_and_tells_the_fuel_that_was_left(metered: Metered) -> None:
    metered.fuel.set(1234)
    metered.fuel.stop()
    metered.fuel.set(9999)
    assert metered.fuel.left == 1234
    with pytest.raises(Trap):
        metered.call("count", 1)


def test_code_cannot_reach_the_fuel_by_any_address(metered: Metered) -> None:
    metered.fuel.set(500)
    with pytest.raises(Trap, match="out of bounds memory access"):
        metered.call("beyond")
    memory = metered._keep.last_made()
    before = ctypes.string_at(memory.base, memory.size)
    assert (500).to_bytes(8, "little") not in before


@pytest.mark.parametrize(
    "module",
    ["(module (memory 1) (memory 1))", "(module)", "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))"],
    ids=["two memories", "none", "unknown instruction"],
)
def test_what_is_not_known_is_refused(module: str) -> None:
    data = bytes(wat2wasm(module))
    with pytest.raises(UnsupportedFormatError):
        add_metering(data)
