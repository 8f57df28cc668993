"""Writes core modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_server.image.linking.core_module import (
    CODE,
    CUSTOM,
    DATA,
    ELEMENT,
    EXPORT,
    FUNCTION,
    GLOBAL,
    I32_CONST,
    IMPORT,
    MEMORY,
    PREAMBLE,
    SORT_FUNCTION,
    SORT_MEMORY,
    SORT_TABLE,
    TABLE,
    TYPE,
    parameter_count,
)
from sandbox_server.image.linking.wasm_format import name, section, signed, sized, unsigned, vector

if TYPE_CHECKING:
    from sandbox_server.image.linking.core_module import Global

LOCAL_GET, CALL_INDIRECT, END = 0x20, 0x11, 0x0B

_FUNCREF = 0x70
_FUNCTION_NAMES = 1

MEMORY_EXPORT = "memory"
TABLE_EXPORT = "table"


class ModuleWriter:
    """Gathers what a module has. Imports of functions come before functions, as their numbers do."""

    def __init__(self) -> None:
        self.table = b""
        self.memory = b""
        self.data = b""
        self._types: dict[bytes, int] = {}
        self._imports: list[bytes] = []
        self._globals: list[bytes] = []
        self._functions: list[bytes] = []
        self._bodies: list[bytes] = []
        self._names: list[bytes] = []
        self._exports: list[bytes] = []
        self._slots: dict[int, int] = {}

    def type_number(self, encoded: bytes) -> int:
        """Returns the number of a type."""
        return self._types.setdefault(encoded, len(self._types))

    def add_import(self, import_name: str, encoded_type: bytes) -> None:
        """Adds a function that comes from the module with an empty name."""
        kind = bytes([SORT_FUNCTION]) + unsigned(self.type_number(encoded_type))
        self._imports.append(name("") + name(import_name) + kind)

    def add_table_import(self, limits: bytes) -> None:
        """Adds a table that comes from there."""
        self._imports.append(name("") + name(TABLE_EXPORT) + bytes([SORT_TABLE]) + limits)

    def add_global(self, one: Global) -> int:
        """Adds a global that code may set; returns its number."""
        self._globals.append(bytes([one.value_type, 1]) + one.initial.encoded)
        return len(self._globals) - 1

    def add_function(self, encoded_type: bytes, body: bytes, function_name: str = "") -> None:
        """Adds a function."""
        if function_name:
            self._names.append(unsigned(len(self._imports) + len(self._functions)) + name(function_name))
        self._functions.append(unsigned(self.type_number(encoded_type)))
        self._bodies.append(sized(body))

    def add_export(self, export_name: str, function: int) -> None:
        """Has a function exported."""
        self._exports.append(name(export_name) + bytes([SORT_FUNCTION]) + unsigned(function))

    def set_slot(self, slot: int, function: int) -> None:
        """Puts a function into the table."""
        self._slots[slot] = function

    def finish(self) -> bytes:
        """Returns the module."""
        exports = list(self._exports)
        if self.memory:
            exports.append(name(MEMORY_EXPORT) + bytes([SORT_MEMORY, 0]))
        elif self.table:
            exports.append(name(TABLE_EXPORT) + bytes([SORT_TABLE, 0]))
        sections = {
            TYPE: vector(self._types),
            IMPORT: vector(self._imports),
            FUNCTION: vector(self._functions),
            TABLE: vector([self.table] if self.table else []),
            MEMORY: vector([self.memory] if self.memory else []),
            GLOBAL: vector(self._globals),
            EXPORT: vector(exports),
            ELEMENT: self._elements(),
            CODE: vector(self._bodies),
            DATA: self.data or b"\0",
            CUSTOM: name("name") + bytes([_FUNCTION_NAMES]) + sized(vector(self._names)),
        }
        return PREAMBLE + b"".join(section(number, body) for number, body in sections.items() if body != b"\0")

    def _elements(self) -> bytes:
        """Returns the segments that fill the table, one for each row of slots without a gap."""
        rows: list[tuple[int, list[int]]] = []
        for slot, function in sorted(self._slots.items()):
            if rows and rows[-1][0] + len(rows[-1][1]) == slot:
                rows[-1][1].append(function)
            else:
                rows.append((slot, [function]))
        return vector(
            b"\0" + bytes([I32_CONST]) + signed(offset) + bytes([END]) + vector(map(unsigned, functions))
            for offset, functions in rows
        )


def table_limits(size: int) -> bytes:
    """Returns the type of a table of functions."""
    return bytes([_FUNCREF, 0]) + unsigned(size)


def trampolines(types: list[bytes]) -> bytes:
    """Returns a module of functions that call what is in its table: of each type one, exported under its number."""
    writer = ModuleWriter()
    writer.table = table_limits(len(types))
    for number, encoded in enumerate(types):
        arguments = b"".join(bytes([LOCAL_GET]) + unsigned(index) for index in range(parameter_count(encoded)))
        called = bytes([I32_CONST]) + signed(number) + bytes([CALL_INDIRECT]) + unsigned(writer.type_number(encoded))
        writer.add_function(encoded, b"\0" + arguments + called + b"\0" + bytes([END]))
        writer.add_export(str(number), number)
    return writer.finish()


def table_filler(types: list[bytes]) -> bytes:
    """Returns a module that puts functions, which it imports, into the table of `trampolines`."""
    writer = ModuleWriter()
    for number, encoded in enumerate(types):
        writer.add_import(str(number), encoded)
        writer.set_slot(number, number)
    writer.add_table_import(table_limits(len(types)))
    return writer.finish()
