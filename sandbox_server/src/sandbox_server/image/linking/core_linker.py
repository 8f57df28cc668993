"""Links core modules that were made to be linked while a program starts, as if they had been linked beforehand.

componentize-py builds an image of a dozen modules: libc, libpython and so on, as shared libraries. They call each other
through tables and find each other's data through globals, which costs at each use; and each new sandbox has to fill the
table that they share, which takes longer than anything else at its start. In an image that was initialised beforehand
all these addresses are known. So here:

- calls between modules become direct, also those that go through a trampoline (a function that does no more than call
  another through the table);
- globals that no code sets become the numbers that they hold;
- functions that nothing refers to are left out.

That is right as long as there is one memory, and one table that no code changes, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sandbox_server.image.linking import core_code
from sandbox_server.image.linking.core_code import Kind, Reference
from sandbox_server.image.linking.core_module import (
    I32_CONST,
    SORT_FUNCTION,
    SORT_GLOBAL,
    CoreModule,
    Global,
    Import,
    check_data,
    parameter_count,
)
from sandbox_server.image.linking.core_writer import LOCAL_GET, ModuleWriter
from sandbox_server.image.linking.wasm_format import Reader, UnsupportedFormatError, signed, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox_server.image.linking.core_code import Code
    from sandbox_server.image.linking.core_module import Constant

_Item = TypeVar("_Item")

_SETS_ONCE = "allocate_stack"
"""Of the WASI adapter in the image, wasmtime's `wasi-preview1-component-adapter`."""

_MOST_HOPS = 100
"""Longer chains, of exports that are imports and of trampolines, are taken for circles."""


@dataclass(frozen=True, order=True)
class Defined:
    """A function or global that a module defines: the position of the module, and the index in it."""

    module: int
    index: int


@dataclass(frozen=True, order=True)
class Outer:
    """A function from outside: the number by which the caller knows it."""

    number: int


Function = Defined | Outer


@dataclass(frozen=True)
class Exported:
    """An export of one of the modules: the module's position, and the name."""

    module: int
    name: str


Resolve = Callable[[int, Import], Exported | Outer]
"""Tells what an import means, of the module at a position."""


@dataclass(frozen=True)
class Linked:
    """What came of it.

    Attributes:
        data: the module.
        imports: what it imports, from a module with an empty name: the numbers of outer functions, which are their
            names, and their types.
    """

    data: bytes
    imports: dict[int, bytes]


class CoreLinker:
    """Links modules.

    Args:
        modules: the modules.
        resolve: tells what their imports mean.

    Raises:
        UnsupportedFormatError: they have something that is not known here.
    """

    def __init__(self, modules: list[CoreModule], resolve: Resolve) -> None:
        self._modules = modules
        self._resolve = resolve
        self._imports = {sort: [module.imports_of(sort) for module in modules] for sort in (SORT_FUNCTION, SORT_GLOBAL)}
        self._codes: dict[Defined, Code] = {}
        self._functions: dict[tuple[int, int], Function] = {}
        self._outer_types: dict[Outer, bytes] = {}
        self._slots: dict[int, tuple[int, int]] = {}
        for position, module in enumerate(modules):
            for segment in module.elements:
                offset = self._number(position, segment.offset)
                for slot, index in enumerate(segment.functions, offset):
                    self._slots[slot] = position, index

    def link(self, exports: dict[str, Exported]) -> Linked:
        """Links them.

        Args:
            exports: the functions that the linked module is to export, by name. It exports its `memory` besides.
        """
        exported = {name: self._exported_function(place) for name, place in exports.items()}
        slots = {slot: self._function(*place) for slot, place in sorted(self._slots.items())}
        reached = self._reach([*exported.values(), *slots.values()])
        outer = sorted(one for one in reached if isinstance(one, Outer))
        defined = sorted(one for one in reached if isinstance(one, Defined))
        everything: list[Function] = [*outer, *defined]
        numbers = {one: number for number, one in enumerate(everything)}

        writer = ModuleWriter()
        for imported in outer:
            writer.add_import(str(imported.number), self._outer_types[imported])
        setters = self._setters(defined)
        _check_state_is_in_memory(setters)
        variables = {one: writer.add_global(self._global(one)) for one in sorted(setters)}
        for one in defined:
            body = self._relink(one, numbers, variables, writer)
            writer.add_function(self._type_of(one), body, self._modules[one.module].names.get(one.index, ""))
        writer.table = self._only(module.tables for module in self._modules)
        writer.memory = self._only(module.memories for module in self._modules)
        writer.data = self._only([module.data] if module.data else [] for module in self._modules)
        check_data(writer.data)
        for name, function in exported.items():
            writer.add_export(name, numbers[function])
        for slot, function in slots.items():
            writer.set_slot(slot, numbers[function])
        return Linked(writer.finish(), {one.number: self._outer_types[one] for one in outer})

    @staticmethod
    def _only(lists: Iterable[list[_Item]]) -> _Item:
        items = [item for items in lists for item in items]
        if len(items) != 1:
            raise UnsupportedFormatError(f"there are {len(items)} memories, tables or sections of data")
        return items[0]

    def _reach(self, roots: list[Function]) -> set[Function]:
        """Returns these functions and all that they call."""
        reached = set(roots)
        open_ends = list(reached)
        while open_ends:
            one = open_ends.pop()
            if isinstance(one, Outer):
                continue
            for part in self._code(one):
                if isinstance(part, Reference) and part.kind in (Kind.CALL, Kind.REF_FUNC):
                    target = self._function(one.module, part.target)
                    if target not in reached:
                        reached.add(target)
                        open_ends.append(target)
        return reached

    def _setters(self, functions: list[Defined]) -> dict[Defined, set[str]]:
        """Returns the globals that code sets, and the names of the functions that do."""
        setters: dict[Defined, set[str]] = {}
        for one in functions:
            for part in self._code(one):
                if isinstance(part, Reference) and part.kind is Kind.GLOBAL_SET:
                    name = self._modules[one.module].names.get(one.index, "")
                    setters.setdefault(self._global_at(one.module, part.target), set()).add(name)
        return setters

    def _relink(
        self,
        function: Defined,
        numbers: dict[Function, int],
        variables: dict[Defined, int],
        writer: ModuleWriter,
    ) -> bytes:
        """Returns the body of a function with everything renumbered."""
        position = function.module
        types = self._modules[position].types
        parts = []
        for part in self._code(function):
            if not isinstance(part, Reference):
                parts.append(part)
                continue
            kind, opcode, target = part
            if kind is Kind.CALL or kind is Kind.REF_FUNC:
                operand = unsigned(numbers[self._function(position, target)])
            elif kind is Kind.CALL_INDIRECT:
                operand = unsigned(writer.type_number(types[target])) + b"\0"
            elif kind is Kind.BLOCK:
                operand = signed(writer.type_number(types[target]))
            else:
                place = self._global_at(position, target)
                if place in variables:
                    operand = unsigned(variables[place])
                else:
                    opcode, operand = I32_CONST, signed(self._number(place.module, self._global(place).initial))
            parts.append(bytes([opcode]) + operand)
        return b"".join(parts)

    def _code(self, function: Defined) -> Code:
        code = self._codes.get(function)
        if code is None:
            body = self._modules[function.module].bodies[self._own_index(function, SORT_FUNCTION)]
            code = self._codes[function] = core_code.split(body)
        return code

    def _type_of(self, function: Function) -> bytes:
        if isinstance(function, Outer):
            return self._outer_types[function]
        module = self._modules[function.module]
        return module.types[module.functions[self._own_index(function, SORT_FUNCTION)]]

    def _global(self, place: Defined) -> Global:
        return self._modules[place.module].globals[self._own_index(place, SORT_GLOBAL)]

    def _own_index(self, place: Defined, sort: int) -> int:
        return place.index - len(self._imports[sort][place.module])

    def _number(self, position: int, constant: Constant, hops: int = 0) -> int:
        """Returns what a constant expression comes to, as a signed number."""
        if hops > _MOST_HOPS:
            raise UnsupportedFormatError("a global is defined by itself")
        number = constant.number
        for index in constant.globals:
            place = self._global_at(position, index)
            number += self._number(place.module, self._global(place).initial, hops + 1)
        return (number + 2**31) % 2**32 - 2**31

    def _global_at(self, position: int, index: int) -> Defined:
        """Returns what a module means by the number of a global."""
        for _ in range(_MOST_HOPS):
            imports = self._imports[SORT_GLOBAL][position]
            if index >= len(imports):
                return Defined(position, index)
            place = self._resolve(position, imports[index])
            if isinstance(place, Outer):
                break
            position, index = place.module, self._export(place, SORT_GLOBAL)
        raise UnsupportedFormatError("a global is not defined in any module")

    def _exported_function(self, place: Exported) -> Function:
        return self._function(place.module, self._export(place, SORT_FUNCTION))

    def _export(self, place: Exported, wanted_sort: int) -> int:
        sort, index = self._modules[place.module].exports[place.name]
        if sort != wanted_sort:
            raise UnsupportedFormatError(f"the export {place.name} is of another sort than what is imported")
        return index

    def _function(self, position: int, index: int) -> Function:
        """Returns what a module means by the number of a function; of a trampoline, the one that it leads to."""
        key = position, index
        known = self._functions.get(key)
        if known is None:
            known = self._functions[key] = self._find_function(position, index)
        return known

    def _find_function(self, position: int, index: int) -> Function:
        for _ in range(_MOST_HOPS):
            imports = self._imports[SORT_FUNCTION][position]
            if index < len(imports):
                one = imports[index]
                place = self._resolve(position, one)
                if isinstance(place, Outer):
                    self._outer_types[place] = self._modules[position].types[one.type_index]
                    return place
                position, index = place.module, self._export(place, SORT_FUNCTION)
                continue
            function = Defined(position, index)
            slot = self._trampoline_slot(function)
            if slot is None or slot not in self._slots:
                return function
            position, index = self._slots[slot]
        raise UnsupportedFormatError("a function leads to itself")

    def _trampoline_slot(self, function: Defined) -> int | None:
        """Returns the slot of the table that a function calls, if it does nothing else."""
        own_type = self._type_of(function)
        module = self._modules[function.module]
        slot = trampoline_slot(self._code(function), own_type)
        if slot is None:
            return None
        called = self._code(function)[1]
        is_same = isinstance(called, Reference) and module.types[called.target] == own_type
        return slot if is_same else None


def _check_state_is_in_memory(setters: dict[Defined, set[str]]) -> None:
    """Checks that while no function runs, all that tells one instance from another is in its memory.

    That is what `wasm.guest.Guest.snapshot` relies on. The stack pointer is where it was whenever all functions have
    returned; the globals of the WASI adapter's own stack are set once, when that is allocated, which has been done.
    """
    others = [one for one, names in setters.items() if names != {_SETS_ONCE}]
    if len(others) > 1:
        raise UnsupportedFormatError(f"code sets {len(others)} globals; only that of the stack is known")


def trampoline_slot(code: Code, function_type: bytes) -> int | None:
    """Returns the slot of the table that a function calls with its own arguments, if it does nothing else."""
    if len(code) != 3 or not isinstance(code[0], bytes) or not isinstance(code[1], Reference) or code[2] != b"\x0b":
        return None
    arguments = b"".join(bytes([LOCAL_GET]) + unsigned(index) for index in range(parameter_count(function_type)))
    beginning = b"\0" + arguments + bytes([I32_CONST])
    if code[1].kind is not Kind.CALL_INDIRECT or not code[0].startswith(beginning):
        return None
    reader = Reader(code[0], len(beginning))
    slot = reader.signed()
    return slot if reader.at_end else None
