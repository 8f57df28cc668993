"""Reads core modules: what they import, define and export."""

from __future__ import annotations

from dataclasses import dataclass, field

from sandbox_server.image.linking.wasm_format import Reader, UnsupportedFormatError

PREAMBLE = b"\0asm\x01\0\0\0"

CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE, DATA, DATA_COUNT = range(13)
"""Sections."""

SORT_FUNCTION, SORT_TABLE, SORT_MEMORY, SORT_GLOBAL = range(4)
"""Sorts of imports and exports."""

FUNCTION_TYPE = 0x60

_NAMES_TABLE = 2
"""The form of a segment of elements that tells which table it is for."""

I32_CONST, GLOBAL_GET, I32_ADD, END = 0x41, 0x23, 0x6A, 0x0B


@dataclass(frozen=True)
class Import:
    """An import.

    Attributes:
        module: from where.
        name: what.
        sort: of what sort.
        type_index: a function's type.
    """

    module: str
    name: str
    sort: int
    type_index: int = -1


@dataclass(frozen=True)
class Constant:
    """A constant expression: the sum of a number and of the values of globals."""

    encoded: bytes
    number: int
    globals: tuple[int, ...] = ()


@dataclass(frozen=True)
class Global:
    """A global that a module defines."""

    value_type: int
    mutable: bool
    initial: Constant


@dataclass(frozen=True)
class Segment:
    """What a module puts into its table: functions from an offset on."""

    offset: Constant
    functions: list[int]


@dataclass
class CoreModule:
    """What is in a module. Indices count imports first, as the format does."""

    types: list[bytes] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    """The types of the functions that it defines."""
    tables: list[bytes] = field(default_factory=list)
    memories: list[bytes] = field(default_factory=list)
    globals: list[Global] = field(default_factory=list)
    exports: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name to sort and index."""
    elements: list[Segment] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    data: bytes = b""
    """The data section."""
    names: dict[int, str] = field(default_factory=dict)
    """Those of functions, by index."""

    def imports_of(self, sort: int) -> list[Import]:
        """Returns the imports of a sort."""
        return [one for one in self.imports if one.sort == sort]

    @classmethod
    def read(cls, data: bytes) -> CoreModule:
        """Reads a module.

        Raises:
            UnsupportedFormatError: it has what is not known here.
        """
        if not data.startswith(PREAMBLE):
            raise UnsupportedFormatError("this is not a core module")
        module = cls()
        for number, reader in Reader(data, len(PREAMBLE)).sections():
            if number == CUSTOM:
                module._read_custom(reader)
            elif number == DATA:
                module.data = reader.data[reader.position : reader.end]
            elif number in _READERS:
                for _ in range(reader.unsigned()):
                    _READERS[number](module, reader)
                if not reader.at_end:
                    raise UnsupportedFormatError(f"section {number} of a core module was misread")
            elif number != DATA_COUNT:
                raise UnsupportedFormatError(f"section {number} of a core module is not known")
        return module

    def _read_custom(self, reader: Reader) -> None:
        if reader.name() != "name":
            return
        for number, part in reader.sections():
            if number == 1:
                for _ in range(part.unsigned()):
                    index = part.unsigned()
                    self.names[index] = part.name()

    def _read_type(self, reader: Reader) -> None:
        start = reader.position
        if reader.byte() != FUNCTION_TYPE:
            raise UnsupportedFormatError("a type is not that of a function")
        for _ in range(2):
            reader.take(reader.unsigned())
        self.types.append(reader.since(start))

    def _read_import(self, reader: Reader) -> None:
        module, name, sort = reader.name(), reader.name(), reader.byte()
        type_index = -1
        if sort == SORT_FUNCTION:
            type_index = reader.unsigned()
        elif sort == SORT_GLOBAL:
            reader.take(2)
        elif sort in (SORT_TABLE, SORT_MEMORY):
            _read_limits(reader, sort)
        else:
            raise UnsupportedFormatError(f"an import is of the unknown sort {sort}")
        self.imports.append(Import(module, name, sort, type_index))

    def _read_function(self, reader: Reader) -> None:
        self.functions.append(reader.unsigned())

    def _read_table(self, reader: Reader) -> None:
        self.tables.append(_read_limits(reader, SORT_TABLE))

    def _read_memory(self, reader: Reader) -> None:
        self.memories.append(_read_limits(reader, SORT_MEMORY))

    def _read_global(self, reader: Reader) -> None:
        value_type, mutable = reader.byte(), reader.byte()
        self.globals.append(Global(value_type, bool(mutable), read_constant(reader)))

    def _read_export(self, reader: Reader) -> None:
        name, sort = reader.name(), reader.byte()
        self.exports[name] = sort, reader.unsigned()

    def _read_element(self, reader: Reader) -> None:
        form = reader.unsigned()
        table = reader.unsigned() if form == _NAMES_TABLE else 0
        if form not in (0, _NAMES_TABLE) or table != 0:
            raise UnsupportedFormatError(f"a table is filled in the unknown way {form}")
        offset = read_constant(reader)
        if form == _NAMES_TABLE:
            reader.byte()  # that the items are functions
        self.elements.append(Segment(offset, [reader.unsigned() for _ in range(reader.unsigned())]))

    def _read_body(self, reader: Reader) -> None:
        self.bodies.append(reader.take(reader.unsigned()))


_READERS = {
    TYPE: CoreModule._read_type,  # noqa: SLF001 - of this class
    IMPORT: CoreModule._read_import,  # noqa: SLF001
    FUNCTION: CoreModule._read_function,  # noqa: SLF001
    TABLE: CoreModule._read_table,  # noqa: SLF001
    MEMORY: CoreModule._read_memory,  # noqa: SLF001
    GLOBAL: CoreModule._read_global,  # noqa: SLF001
    EXPORT: CoreModule._read_export,  # noqa: SLF001
    ELEMENT: CoreModule._read_element,  # noqa: SLF001
    CODE: CoreModule._read_body,  # noqa: SLF001
}


def _read_limits(reader: Reader, sort: int) -> bytes:
    """Reads the type of a table or memory."""
    start = reader.position
    if sort == SORT_TABLE:
        reader.byte()
    flags = reader.byte()
    if flags not in (0, 1):
        raise UnsupportedFormatError(f"limits with flags {flags:#x} are not known")
    for _ in range(1 + flags):
        reader.unsigned()
    return reader.since(start)


def read_constant(reader: Reader) -> Constant:
    """Reads a constant expression."""
    start = reader.position
    number = 0
    global_indices = []
    while (opcode := reader.byte()) != END:
        if opcode == I32_CONST:
            number += reader.signed()
        elif opcode == GLOBAL_GET:
            global_indices.append(reader.unsigned())
        elif opcode != I32_ADD:
            raise UnsupportedFormatError(f"instruction {opcode:#x} in a constant expression is not known")
    return Constant(reader.since(start), number, tuple(global_indices))


def parameter_count(function_type: bytes) -> int:
    """Returns how many parameters a function of a type has."""
    return Reader(function_type, 1).unsigned()


def check_data(section: bytes) -> None:
    """Checks that all data is put where a number says.

    Raises:
        UnsupportedFormatError: some is not.
    """
    reader = Reader(section)
    for _ in range(reader.unsigned()):
        if reader.byte() != 0 or read_constant(reader).globals:
            raise UnsupportedFormatError("data is put into memory in a way that is not known")
        size = reader.unsigned()
        reader.position += size
    if not reader.at_end:
        raise UnsupportedFormatError("the data of a core module was misread")
