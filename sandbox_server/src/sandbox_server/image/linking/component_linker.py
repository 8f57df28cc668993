"""Makes of a component with many core modules one that does the same with one: see `core_linker` for what that is for.

Of the component functions that the linked module imports, some need its memory, and so can be made only when it is
there. As is usual, it is given trampolines in their stead, whose table is filled afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_server.image.linking import component_reader as reading
from sandbox_server.image.linking import core_code, core_writer
from sandbox_server.image.linking.component_reader import (
    Bundle,
    CoreAlias,
    CoreModuleData,
    Instantiation,
    Lift,
    Lower,
    ResourceFunction,
    Verbatim,
)
from sandbox_server.image.linking.core_linker import CoreLinker, Exported, Outer, trampoline_slot
from sandbox_server.image.linking.core_module import SORT_FUNCTION, SORT_TABLE, CoreModule, Import
from sandbox_server.image.linking.wasm_format import UnsupportedFormatError, name, section, unsigned, vector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox_server.image.linking.component_reader import Definition, Options

_TRAMPOLINES, _LINKED, _FILLER = range(3)
"""The modules of what comes out."""

_LINKED_INSTANCE = 2


def link_component(component: bytes) -> bytes:
    """Returns the component with its core modules linked into one.

    Raises:
        UnsupportedFormatError: it is not one that componentize-py makes.
    """
    definitions = reading.read_component(component)
    core = _Core(definitions)
    # Core functions go by their numbers in the given component. These are what the linked module has to export.
    exports = {str(number): core.exported(number) for number in sorted(_used_functions(definitions))}
    linked = CoreLinker(core.modules, core.resolve).link(exports)
    return _Writer(linked.data, linked.imports).write(definitions, core.functions)


def _used_functions(definitions: list[Definition]) -> set[int]:
    """Returns the core functions that are lifted, or are an option of what is lifted or lowered."""
    used = set()
    for one in definitions:
        if isinstance(one, Lift):
            used.add(one.core_function)
        if isinstance(one, (Lift, Lower)):
            used |= {index for code, index in one.options if index is not None and code != reading.OPTION_MEMORY}
    return used


class _Core:
    """What a component defines that is core, by number, and how it hangs together.

    Attributes:
        functions: the core functions.
        modules: those that can be linked, one for each instance of a module.
    """

    def __init__(self, definitions: list[Definition]) -> None:
        self.functions: list[CoreAlias | Lower | ResourceFunction] = []
        self._aliases: dict[int, list[CoreAlias]] = {sort: [] for sort in reading.CORE_SORTS}
        self._instances: list[Instantiation | Bundle] = []
        modules = []
        for one in definitions:
            if isinstance(one, CoreModuleData):
                modules.append(one.data)
            elif isinstance(one, (Instantiation, Bundle)):
                self._instances.append(one)
            elif isinstance(one, (Lower, ResourceFunction)):
                self.functions.append(one)
            elif isinstance(one, CoreAlias):
                self._aliases[one.sort].append(one)
                if one.sort == reading.CORE_FUNCTION:
                    self.functions.append(one)
        read = {
            number: CoreModule.read(modules[one.module])
            for number, one in enumerate(self._instances)
            if isinstance(one, Instantiation)
        }
        filler = self._find_filler(read)
        self._trampolines, self._targets = self._read_filler(self._instances[filler], read.pop(filler))
        self._trampoline_module = read.pop(self._trampolines)
        self._positions = {instance: position for position, instance in enumerate(read)}
        self.modules = list(read.values())
        self._linked_instances = list(read)

    def function(self, number: int) -> Exported | Outer:
        """Returns what a core function is: of one of the modules, or made of a component function."""
        one = self.functions[number]
        return self._export(one.instance, one.name) if isinstance(one, CoreAlias) else Outer(number)

    def exported(self, number: int) -> Exported:
        """Returns the export of a module that a core function is."""
        place = self.function(number)
        if isinstance(place, Outer):
            raise UnsupportedFormatError("a component function is lifted that was lowered before")
        return place

    def resolve(self, position: int, one: Import) -> Exported | Outer:
        """Returns what an import means, of the module at a position."""
        instance = self._instances[self._linked_instances[position]]
        if isinstance(instance, Bundle):
            raise TypeError("only instances of modules are linked")
        return self._export(instance.arguments[one.module], one.name)

    def _export(self, instance: int, export_name: str) -> Exported | Outer:
        definition = self._instances[instance]
        if isinstance(definition, Bundle):
            sort, number = definition.exports[export_name]
            if sort == reading.CORE_FUNCTION:
                return self.function(number)
            alias = self._aliases[sort][number]
            return self._export(alias.instance, alias.name)
        if instance == self._trampolines:
            return self.function(self._targets[self._trampoline_slot(export_name)])
        return Exported(self._positions[instance], export_name)

    def _trampoline_slot(self, export_name: str) -> int:
        module = self._trampoline_module
        _, index = module.exports[export_name]
        function_type = module.types[module.functions[index]]
        slot = trampoline_slot(core_code.split(module.bodies[index]), function_type)
        if slot is None:
            raise UnsupportedFormatError(f"the function {export_name} of the trampolines is none")
        return slot

    @staticmethod
    def _find_filler(modules: dict[int, CoreModule]) -> int:
        """Returns the instance that does no more than fill a table with functions that it imports."""
        fillers = [number for number, module in modules.items() if module.elements and not module.bodies]
        if len(fillers) != 1:
            raise UnsupportedFormatError(f"there are {len(fillers)} modules that do no more than fill a table")
        return fillers[0]

    def _read_filler(self, instance: Instantiation | Bundle, module: CoreModule) -> tuple[int, dict[int, int]]:
        """Returns the instance whose table is filled, and by slot the core function that is put there."""
        tables = [one for one in module.imports if one.sort == SORT_TABLE]
        if isinstance(instance, Bundle) or len(tables) != 1:
            raise UnsupportedFormatError("a module fills more than one table")

        def given(one: Import) -> tuple[int, int]:
            bundle = self._instances[instance.arguments[one.module]]
            if not isinstance(bundle, Bundle):
                raise UnsupportedFormatError("a table is filled from a module")
            return bundle.exports[one.name]

        sort, number = given(tables[0])
        functions = [given(one)[1] for one in module.imports_of(SORT_FUNCTION)]
        targets = {
            slot: functions[index]
            for segment in module.elements
            for slot, index in enumerate(segment.functions, segment.offset.number)
        }
        return self._aliases[sort][number].instance, targets


class _Writer:
    """Writes the component that comes out.

    Args:
        linked: the linked module.
        imports: the core functions that it imports, by their numbers in the given component, and their types.
    """

    def __init__(self, linked: bytes, imports: dict[int, bytes]) -> None:
        self._linked = linked
        self._imports = imports
        self._sections: list[bytes] = []
        self._function_count = 0
        self._exports: dict[int, int] = {}
        self._functions: dict[int, int] = {}
        """The core functions: their numbers in the given component, and here."""

    def write(self, definitions: list[Definition], functions: list[CoreAlias | Lower | ResourceFunction]) -> bytes:
        """Writes it.

        Args:
            definitions: of the given component.
            functions: its core functions.
        """
        numbers = iter(range(len(functions)))
        waiting: dict[int, Lower] = {}
        is_linked = False
        for one in definitions:
            is_function = isinstance(one, (Lower, ResourceFunction)) or (
                isinstance(one, CoreAlias) and one.sort == reading.CORE_FUNCTION
            )
            number = next(numbers) if is_function else -1
            if isinstance(one, Verbatim):
                self._add_verbatim(one)
            elif isinstance(one, Lift):
                if not is_linked:
                    is_linked = True
                    self._add_core(waiting)
                self._add_lift(one)
            elif number in self._imports:
                if is_linked:
                    raise UnsupportedFormatError("a core function is made after the first that is lifted")
                if isinstance(one, ResourceFunction):
                    self._add_function(number, reading.CANON, one.encoded)
                elif isinstance(one, Lower) and one.options:
                    waiting[number] = one
                elif isinstance(one, Lower):
                    self._add_function(number, reading.CANON, self._lowered(one))
        return reading.PREAMBLE + b"".join(self._sections)

    def _add_verbatim(self, one: Verbatim) -> None:
        # Names of core things would be wrong now.
        if one.section != reading.CUSTOM:
            self._sections.append(section(one.section, one.body))

    def _add_core(self, waiting: dict[int, Lower]) -> None:
        """Adds the modules and their instances, and the functions that need the memory."""
        types = [self._imports[number] for number in waiting]
        modules = (core_writer.trampolines(types), self._linked, core_writer.table_filler(types))
        self._sections += [section(reading.CORE_MODULE, one) for one in modules]
        trampolines, given, _, fillings = range(4)
        self._add(reading.CORE_INSTANCE, _instantiation(_TRAMPOLINES))
        for slot, number in enumerate(waiting):
            self._add_function(number, reading.ALIAS, _alias(reading.CORE_FUNCTION, trampolines, str(slot)))
        self._add(
            reading.CORE_INSTANCE,
            _bundle((str(number), reading.CORE_FUNCTION, self._functions[number]) for number in self._imports),
        )
        self._add(reading.CORE_INSTANCE, _instantiation(_LINKED, given))
        self._add(reading.ALIAS, _alias(reading.CORE_MEMORY, _LINKED_INSTANCE, core_writer.MEMORY_EXPORT))
        self._add(reading.ALIAS, _alias(reading.CORE_TABLE, trampolines, core_writer.TABLE_EXPORT))
        for number, one in waiting.items():
            self._add_function(number, reading.CANON, self._lowered(one))
        self._add(
            reading.CORE_INSTANCE,
            _bundle(
                [
                    (core_writer.TABLE_EXPORT, reading.CORE_TABLE, 0),
                    *((str(slot), reading.CORE_FUNCTION, self._functions[n]) for slot, n in enumerate(waiting)),
                ]
            ),
        )
        self._add(reading.CORE_INSTANCE, _instantiation(_FILLER, fillings))

    def _add_lift(self, one: Lift) -> None:
        function = unsigned(self._exported(one.core_function))
        options = self._options(one.options)
        self._add(reading.CANON, bytes([reading.LIFT, 0]) + function + options + unsigned(one.type_index))

    def _lowered(self, one: Lower) -> bytes:
        return bytes([reading.LOWER, 0]) + unsigned(one.function) + self._options(one.options)

    def _options(self, options: Options) -> bytes:
        encoded = []
        for code, number in options:
            operand = b""
            if number is not None:  # there is one memory
                operand = unsigned(0 if code == reading.OPTION_MEMORY else self._exported(number))
            encoded.append(bytes([code]) + operand)
        return vector(encoded)

    def _exported(self, number: int) -> int:
        """Returns the core function that the linked module exports for one of the given component."""
        if number not in self._exports:
            self._exports[number] = self._add_function_section(
                reading.ALIAS, _alias(reading.CORE_FUNCTION, _LINKED_INSTANCE, str(number))
            )
        return self._exports[number]

    def _add_function(self, number: int, section_number: int, encoded: bytes) -> None:
        self._functions[number] = self._add_function_section(section_number, encoded)

    def _add_function_section(self, section_number: int, encoded: bytes) -> int:
        self._add(section_number, encoded)
        self._function_count += 1
        return self._function_count - 1

    def _add(self, section_number: int, definition: bytes) -> None:
        """Adds a section of one definition."""
        self._sections.append(section(section_number, unsigned(1) + definition))


def _alias(sort: int, instance: int, export_name: str) -> bytes:
    return bytes([reading.SORT_CORE, sort, reading.ALIAS_OF_CORE_INSTANCE]) + unsigned(instance) + name(export_name)


def _instantiation(module: int, argument: int | None = None) -> bytes:
    """Encodes an instance of a module, which may be given one for the module with an empty name."""
    arguments = [] if argument is None else [name("") + bytes([reading.INSTANCE_ARGUMENT]) + unsigned(argument)]
    return b"\0" + unsigned(module) + vector(arguments)


def _bundle(exports: Iterable[tuple[str, int, int]]) -> bytes:
    """Encodes an instance made of exports: names, sorts and numbers."""
    return b"\1" + vector(name(export_name) + bytes([sort]) + unsigned(number) for export_name, sort, number in exports)
