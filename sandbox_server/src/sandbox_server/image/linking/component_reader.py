"""Reads a component as a list of definitions, in order, those that concern core modules in detail.

Source: Component Model binary format, WebAssembly/component-model `design/mvp/Binary.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_server.image.linking.wasm_format import Reader, UnsupportedFormatError, unsigned

if TYPE_CHECKING:
    from collections.abc import Callable

PREAMBLE = b"\0asm\x0d\0\x01\0"

(CUSTOM, CORE_MODULE, CORE_INSTANCE, CORE_TYPE, COMPONENT, INSTANCE, ALIAS, TYPE, CANON, START, IMPORT, EXPORT) = range(
    12
)
"""Sections."""

CORE_SORTS = CORE_FUNCTION, CORE_TABLE, CORE_MEMORY, CORE_GLOBAL = range(4)
"""Sorts of what core instances export."""

SORT_CORE = 0x00
INSTANCE_ARGUMENT = 0x12

OPTION_MEMORY, OPTION_REALLOC, OPTION_POST_RETURN = 0x03, 0x04, 0x05
_OPTIONS_WITHOUT_INDEX = (0x00, 0x01, 0x02)  # the encodings of strings

_ALIAS_OF_INSTANCE, ALIAS_OF_CORE_INSTANCE = 0x00, 0x01
LIFT, LOWER = 0x00, 0x01
_RESOURCE_FUNCTIONS = (0x02, 0x03, 0x04)


@dataclass(frozen=True)
class Verbatim:
    """A section, or what could be one, in which nothing refers to core modules and their exports."""

    section: int
    body: bytes


@dataclass(frozen=True)
class CoreModuleData:
    """A core module."""

    data: bytes


@dataclass(frozen=True)
class Instantiation:
    """An instance of a core module: the module, and the instance that each module name of its imports means."""

    module: int
    arguments: dict[str, int]


@dataclass(frozen=True)
class Bundle:
    """A core instance that is made of exports: name to sort and index."""

    exports: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class CoreAlias:
    """An export of a core instance."""

    sort: int
    instance: int
    name: str


Options = tuple[tuple[int, "int | None"], ...]
"""Options of a function: the code of each, and the memory or function that it names."""


@dataclass(frozen=True)
class Lift:
    """A component function that is made of a core function."""

    core_function: int
    options: Options
    type_index: int


@dataclass(frozen=True)
class Lower:
    """A core function that is made of a component function."""

    function: int
    options: Options


@dataclass(frozen=True)
class ResourceFunction:
    """A core function that is built in, as the one that drops a resource of some type."""

    encoded: bytes


Definition = Verbatim | CoreModuleData | Instantiation | Bundle | CoreAlias | Lift | Lower | ResourceFunction


def read_component(data: bytes) -> list[Definition]:
    """Reads a component.

    Sections of types, instances, imports and exports are not looked into. They could refer to core definitions only in
    a component that defines resources or hands on modules, which those of componentize-py do not.

    Raises:
        UnsupportedFormatError: it has what is not known here.
    """
    if not data.startswith(PREAMBLE):
        raise UnsupportedFormatError("this is not a WebAssembly component")
    definitions: list[Definition] = []
    for number, reader in Reader(data, len(PREAMBLE)).sections():
        if number == CORE_MODULE:
            definitions.append(CoreModuleData(_rest(reader)))
        elif number in (CUSTOM, COMPONENT, TYPE, INSTANCE, IMPORT, EXPORT):
            definitions.append(Verbatim(number, _rest(reader)))
        elif number in _READERS:
            definitions += [_READERS[number](reader) for _ in range(reader.unsigned())]
            if not reader.at_end:
                raise UnsupportedFormatError(f"section {number} of the component was misread")
        else:
            raise UnsupportedFormatError(f"section {number} of a component is not known")
    return definitions


def _rest(reader: Reader) -> bytes:
    return reader.take(reader.end - reader.position)


def _read_core_instance(reader: Reader) -> Definition:
    if reader.byte() == 0x00:
        module = reader.unsigned()
        arguments = {}
        for _ in range(reader.unsigned()):
            name = reader.name()
            if reader.byte() != INSTANCE_ARGUMENT:
                raise UnsupportedFormatError("a core module is given what is no instance")
            arguments[name] = reader.unsigned()
        return Instantiation(module, arguments)
    exports = {}
    for _ in range(reader.unsigned()):
        name, sort = reader.name(), reader.byte()
        exports[name] = sort, reader.unsigned()
    return Bundle(exports)


def _read_alias(reader: Reader) -> Definition:
    start = reader.position
    is_core = reader.byte() == SORT_CORE
    core_sort = reader.byte() if is_core else -1
    target = reader.byte()
    if is_core != (target == ALIAS_OF_CORE_INSTANCE):
        raise UnsupportedFormatError("an alias of something core is not of a core instance's export")
    instance = reader.unsigned()
    if is_core:
        return CoreAlias(core_sort, instance, reader.name())
    if target == _ALIAS_OF_INSTANCE:
        reader.name()
    else:
        reader.unsigned()
    return Verbatim(ALIAS, unsigned(1) + reader.since(start))


def _read_canon(reader: Reader) -> Definition:
    start = reader.position
    kind = reader.byte()
    if kind in (LIFT, LOWER):
        reader.byte()
        function = reader.unsigned()
        options = tuple(_read_option(reader) for _ in range(reader.unsigned()))
        return Lift(function, options, reader.unsigned()) if kind == LIFT else Lower(function, options)
    if kind not in _RESOURCE_FUNCTIONS:
        raise UnsupportedFormatError(f"canonical definition {kind:#x} is not known")
    reader.unsigned()
    return ResourceFunction(reader.since(start))


def _read_option(reader: Reader) -> tuple[int, int | None]:
    code = reader.byte()
    if code in _OPTIONS_WITHOUT_INDEX:
        return code, None
    if code in (OPTION_MEMORY, OPTION_REALLOC, OPTION_POST_RETURN):
        return code, reader.unsigned()
    raise UnsupportedFormatError(f"option {code:#x} of a function is not known")


_READERS: dict[int, Callable[[Reader], Definition]] = {
    CORE_INSTANCE: _read_core_instance,
    ALIAS: _read_alias,
    CANON: _read_canon,
}
