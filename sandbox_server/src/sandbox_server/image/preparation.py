"""Prepares a component to be compiled: takes out what its memory begins with, and has its code count fuel.

wasmtime would map the memory too, but anew for each sandbox; from a file of its own, `wasm.linear_memory` can put a
memory back to where it began.

Source: Component Model binary format, WebAssembly/component-model `design/mvp/Binary.md`.
"""

from __future__ import annotations

from sandbox_server.image.linking import component_reader
from sandbox_server.image.linking.core_module import DATA, PREAMBLE, check_data, read_constant
from sandbox_server.image.linking.wasm_format import Reader, UnsupportedFormatError, section
from sandbox_server.image.metering import add_metering
from sandbox_server.wasm.memory_image import encode


def prepare(component: bytes) -> tuple[bytes, bytes]:
    """Returns a component that counts its fuel and has no data, and the file of a memory image that has them instead.

    Raises:
        UnsupportedFormatError: it is none, it has no data, more than one module has, or code that is not known.
    """
    if not component.startswith(component_reader.PREAMBLE):
        raise UnsupportedFormatError("this is not a component")
    sections = [component_reader.PREAMBLE]
    found = []
    for number, reader in Reader(component, len(component_reader.PREAMBLE)).sections():
        body = component[reader.position : reader.end]
        if number == component_reader.CORE_MODULE:
            body, data = _without_data(body)
            if data:  # else it is glue, which runs between modules and has no loop
                body = add_metering(body)
            found += data
        sections.append(section(number, body))
    if len(found) != 1:
        raise UnsupportedFormatError(f"{len(found)} modules have data, not one")
    return b"".join(sections), encode(_parts(found[0]))


def _without_data(module: bytes) -> tuple[bytes, list[bytes]]:
    kept, data = [PREAMBLE], []
    for number, reader in Reader(module, len(PREAMBLE)).sections():
        body = module[reader.position : reader.end]
        if number == DATA:
            data.append(body)
        else:
            kept.append(section(number, body))
    return b"".join(kept), data


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """Returns what a section of data puts into memory, and where."""
    check_data(data)
    reader = Reader(data)
    parts = []
    for _ in range(reader.unsigned()):
        reader.byte()  # the form, which was checked
        address = read_constant(reader).number % 2**32
        parts.append((address, reader.take(reader.unsigned())))
    return parts
