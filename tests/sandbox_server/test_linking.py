"""The modules of the image become one that does the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sandbox_server.image.cache import default_cache_directory, load_or_build_image
from sandbox_server.image.linking import core_code, core_writer
from sandbox_server.image.linking.component_linker import link_component
from sandbox_server.image.linking.component_reader import CoreModuleData, read_component
from sandbox_server.image.linking.core_linker import CoreLinker, Exported, Outer
from sandbox_server.image.linking.core_module import CoreModule
from sandbox_server.image.linking.wasm_format import Reader, UnsupportedFormatError, signed, unsigned
from wasmtime import Engine, Func, FuncType, Instance, Module, Store, ValType, wat2wasm

if TYPE_CHECKING:
    from sandbox_server.image.linking.core_module import Import

# As componentize-py has it: a main module with memory, table, addresses and trampolines, and a library.
_MAIN = """
(module
  (type $unary (func (param i32) (result i32)))
  (memory (export "memory") 1)
  (table (export "table") 3 funcref)
  (global (export "base") i32 (i32.const 1))
  (global (export "got.answer") (mut i32) (i32.const 100))
  (global (export "stack") (mut i32) (i32.const 500))
  (func (export "double") (type $unary) local.get 0 i32.const 1 call_indirect (type $unary))
  (func (export "unused") (type $unary) local.get 0)
  (data (i32.const 100) "\\2a\\00\\00\\00"))
"""
_LIBRARY = """
(module
  (type $unary (func (param i32) (result i32)))
  (import "env" "memory" (memory 1))
  (import "env" "table" (table 3 funcref))
  (import "env" "base" (global $base i32))
  (import "env" "got.answer" (global $answer (mut i32)))
  (import "env" "stack" (global $stack (mut i32)))
  (import "env" "double" (func $double (type $unary)))
  (import "env" "host" (func $host (type $unary)))
  (elem (global.get $base) func $real_double $host)
  (func $real_double (type $unary) local.get 0 i32.const 2 i32.mul)
  (func (export "run") (result i32)
    (global.set $stack (i32.sub (global.get $stack) (i32.const 7)))
    (i32.add
      (call $double (i32.load (global.get $answer)))
      (i32.add
        (global.get $stack)
        (call_indirect (type $unary) (i32.const 5) (i32.const 2)))))
  (func (export "table_changer") i32.const 0 i32.const 0 table.get 0 table.set 0))
"""


def _resolve(position: int, one: Import) -> Exported | Outer:
    assert position == 1
    return Outer(7) if one.name == "host" else Exported(0, one.name)


def _linker() -> CoreLinker:
    return CoreLinker([CoreModule.read(bytes(wat2wasm(text))) for text in (_MAIN, _LIBRARY)], _resolve)


def test_the_linked_module_does_the_same_with_direct_calls_and_known_addresses() -> None:
    linked = _linker().link({"run": Exported(1, "run")})
    assert list(linked.imports) == [7]
    store = Store(Engine())
    called: list[int] = []

    def host(value: int) -> int:
        called.append(value)
        return 1000

    unary = FuncType([ValType.i32()], [ValType.i32()])
    instance = Instance(store, Module(store.engine, linked.data), [Func(store, unary, host)])
    run = instance.exports(store)["run"]
    assert isinstance(run, Func)
    assert [run(store), run(store)] == [84 + 493 + 1000, 84 + 486 + 1000]
    assert called == [5, 5]

    module = CoreModule.read(linked.data)
    assert len(module.globals) == 1  # only the one that code sets
    assert len(module.bodies) == 2  # neither the trampoline nor what nothing refers to
    references = [part for body in module.bodies for part in core_code.split(body) if not isinstance(part, bytes)]
    assert [one.kind.name for one in references].count("CALL_INDIRECT") == 1


def test_code_that_changes_the_table_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError, match="instruction 0x25 is not known"):
        _linker().link({"run": Exported(1, "table_changer")})


def test_a_second_memory_is_refused() -> None:
    modules = [CoreModule.read(bytes(wat2wasm('(module (memory 1) (func (export "f")))'))) for _ in range(2)]
    with pytest.raises(UnsupportedFormatError, match="memories"):
        CoreLinker(modules, _resolve).link({"f": Exported(0, "f")})


@pytest.mark.parametrize("value", [0, 1, 63, 64, 127, 128, 300, 2**31 - 1, 2**32 - 1])
def test_numbers_are_read_as_they_were_written(value: int) -> None:
    assert Reader(unsigned(value)).unsigned() == value
    assert Reader(signed(value)).signed() == value
    assert Reader(signed(-value)).signed() == -value


def test_trampolines_lead_to_what_is_filled_in() -> None:
    store = Store(Engine())
    encoded = bytes.fromhex("60017f017f")  # i32 to i32
    trampolines = Instance(store, Module(store.engine, core_writer.trampolines([encoded])), [])
    exports = trampolines.exports(store)
    unary = FuncType([ValType.i32()], [ValType.i32()])
    target = Func(store, unary, lambda value: value + 1)
    filler = Module(store.engine, core_writer.table_filler([encoded]))
    Instance(store, filler, [target, exports["table"]])
    trampoline = exports["0"]
    assert isinstance(trampoline, Func)
    assert trampoline(store, 41) == 42


@pytest.mark.parametrize("data", [b"", b"\0asm\x01\0\0\0", b"no wasm at all"])
def test_what_is_no_component_of_the_image_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError):
        link_component(data)


def test_the_image_has_one_module_with_code_of_its_own() -> None:
    image = load_or_build_image(default_cache_directory(), print)
    component = (image.path.parent / f"{image.digest}.wasm").read_bytes()
    sizes = sorted(len(one.data) for one in read_component(component) if isinstance(one, CoreModuleData))
    # The rest are trampolines for what the host provides, and what fills their table.
    assert len(sizes) == 3
    assert sum(sizes[:2]) < 10_000
