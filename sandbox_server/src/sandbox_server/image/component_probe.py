"""Adds to a component a function that tells the size of its linear memory.

wasmtime's component API hides memories, and a guest's peak of memory is what its owner pays for. A component is a
list of sections, and definitions may be appended: a tiny core module that imports the guest's memory and exports its
size, an instance of it, and a lifted function `memory-pages: func() -> u32`. To append, one has to know how many
definitions of each sort there are already, so the existing sections are read.

Source: Component Model binary format, WebAssembly/component-model `design/mvp/Binary.md`.
"""

from __future__ import annotations

from collections import Counter

from wasmtime import wat2wasm

EXPORT_NAME = "memory-pages"

_PREAMBLE = b"\0asm\x0d\0\x01\0"

_PROBE_WAT = """
(module
  (import "guest" "memory" (memory 0))
  (func (export "memory-pages") (result i32) memory.size))
"""

_CORE_MODULE, _CORE_INSTANCE, _COMPONENT, _INSTANCE, _ALIAS, _TYPE, _CANON, _IMPORT, _EXPORT = (
    1,
    2,
    4,
    5,
    6,
    7,
    8,
    10,
    11,
)
_CORE_TYPE = 3

_CORE_SORTS = {
    0x00: "core func",
    0x01: "core table",
    0x02: "core memory",
    0x03: "core global",
    0x10: "core type",
    0x11: "core module",
    0x12: "core instance",
}
_SORTS = {0x01: "func", 0x02: "value", 0x03: "type", 0x04: "component", 0x05: "instance"}

_COUNTED_SECTIONS = {
    _CORE_INSTANCE: "core instance",
    _CORE_TYPE: "core type",
    _INSTANCE: "instance",
    _TYPE: "type",
}
"""Sections that are a list of definitions of one sort."""

_SINGLE_SECTIONS = {_CORE_MODULE: "core module", _COMPONENT: "component"}
"""Sections that are one definition."""


class UnsupportedComponentError(Exception):
    """The component has something that this reader does not know, or no memory."""


def add_memory_probe(component: bytes) -> bytes:
    """Returns the component with the additional export `memory-pages`.

    Raises:
        UnsupportedComponentError: the component is not one that componentize-py makes.
    """
    reader = _ComponentReader(component)
    reader.read()
    counts = reader.counts
    guest_instance = counts["core instance"]
    probe_instance = guest_instance + 1
    return b"".join(
        [
            component,
            _section(_CORE_MODULE, bytes(wat2wasm(_PROBE_WAT))),
            _section(
                _CORE_INSTANCE,
                _leb(2)
                # An instance made of one export, the guest's memory ...
                + b"\x01"
                + _leb(1)
                + _name("memory")
                + b"\x02"
                + _leb(reader.memory_index)
                # ... and the probe, instantiated with it.
                + b"\x00"
                + _leb(counts["core module"])
                + _leb(1)
                + _name("guest")
                + b"\x12"
                + _leb(guest_instance),
            ),
            _section(_ALIAS, _leb(1) + b"\x00\x00\x01" + _leb(probe_instance) + _name(EXPORT_NAME)),
            _section(_TYPE, _leb(1) + b"\x40" + _leb(0) + b"\x00\x79"),
            _section(_CANON, _leb(1) + b"\x00\x00" + _leb(counts["core func"]) + _leb(0) + _leb(counts["type"])),
            _section(_EXPORT, _leb(1) + b"\x00" + _name(EXPORT_NAME) + b"\x01" + _leb(counts["func"]) + b"\x00"),
        ]
    )


class _ComponentReader:
    """Counts the definitions of each sort at the component's top level, and finds the guest's memory."""

    def __init__(self, component: bytes) -> None:
        if not component.startswith(_PREAMBLE):
            raise UnsupportedComponentError("this is not a WebAssembly component")
        self._data = component
        self._position = len(_PREAMBLE)
        self.counts: Counter[str] = Counter()
        self._memory_index: int | None = None

    @property
    def memory_index(self) -> int:
        """The index of the guest's memory among the core memories."""
        if self._memory_index is None:
            raise UnsupportedComponentError("the component has no alias of a core memory")
        return self._memory_index

    def read(self) -> None:
        """Reads all sections."""
        while self._position < len(self._data):
            section = self._byte()
            size = self._integer()
            end = self._position + size
            if section in _SINGLE_SECTIONS:
                self.counts[_SINGLE_SECTIONS[section]] += 1
            elif section in _COUNTED_SECTIONS:
                self.counts[_COUNTED_SECTIONS[section]] += self._integer()
            elif section in (_ALIAS, _CANON, _IMPORT, _EXPORT):
                read = {
                    _ALIAS: self._read_alias,
                    _CANON: self._read_canon,
                    _IMPORT: self._read_import,
                    _EXPORT: self._read_export,
                }[section]
                for _ in range(self._integer()):
                    read()
                if self._position != end:
                    raise UnsupportedComponentError(f"section {section} was misread")
            self._position = end

    def _read_alias(self) -> None:
        sort = self._sort()
        target = self._byte()
        self._integer()
        if target in (0, 1):
            self._string()
            if sort == "core memory" and self._memory_index is None:
                self._memory_index = self.counts[sort]
        else:
            self._integer()
        self.counts[sort] += 1

    def _read_canon(self) -> None:
        kind = self._byte()
        if kind == 0x00:  # lift
            self._byte()
            self._integer()
            self._read_canon_options()
            self._integer()
            self.counts["func"] += 1
        elif kind == 0x01:  # lower
            self._byte()
            self._integer()
            self._read_canon_options()
            self.counts["core func"] += 1
        elif kind in (0x02, 0x03, 0x04):  # resource.new, resource.drop, resource.rep
            self._integer()
            self.counts["core func"] += 1
        else:
            raise UnsupportedComponentError(f"canonical definition {kind:#x} is not known")

    def _read_canon_options(self) -> None:
        for _ in range(self._integer()):
            if self._byte() in (0x03, 0x04, 0x05, 0x07):  # memory, realloc, post-return, callback
                self._integer()

    def _read_import(self) -> None:
        self._byte()
        self._string()
        self.counts[self._extern_description()] += 1

    def _read_export(self) -> None:
        self._byte()
        self._string()
        sort = self._sort()
        self._integer()
        if self._byte():
            self._extern_description()
        self.counts[sort] += 1

    def _extern_description(self) -> str:
        kind = self._byte()
        if kind == 0x00:
            self._byte()
            self._integer()
            return "core module"
        if kind == 0x03:
            if self._byte() == 0x00:
                self._integer()
            return "type"
        self._integer()
        return _SORTS[kind]

    def _sort(self) -> str:
        sort = self._byte()
        return _CORE_SORTS[self._byte()] if sort == 0x00 else _SORTS[sort]

    def _byte(self) -> int:
        value = self._data[self._position]
        self._position += 1
        return value

    def _integer(self) -> int:
        result = shift = 0
        while True:
            byte = self._byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    def _string(self) -> str:
        size = self._integer()
        text = self._data[self._position : self._position + size].decode()
        self._position += size
        return text


def _leb(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        if not value:
            encoded.append(low)
            return bytes(encoded)
        encoded.append(low | 0x80)


def _name(text: str) -> bytes:
    return _leb(len(text.encode())) + text.encode()


def _section(number: int, body: bytes) -> bytes:
    return bytes([number]) + _leb(len(body)) + body
