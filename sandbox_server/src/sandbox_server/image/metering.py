"""Has the code of a core module count its own fuel, in a memory of its own.

wasmtime can count fuel, and can interrupt code when its epoch moves on; both together cost half as much again as the
code itself. Here the same few instructions do both. They stand at the beginning of each function and of each iteration
of a loop, and subtract what the function or iteration costs from a number in a second memory; if that has become
negative, the next iteration of any loop traps. No instruction of the module's own can touch that memory. The host has
the page under it: it writes the fuel there and reads what is left, even after a trap, and to interrupt the code it
makes the page read-only, so that the next subtraction traps.

A function costs as many units as it has instructions outside loops, an iteration as many as the loop has outside inner
loops, each at most `MOST_UNITS`: of a large body only a small part runs at a time. A short function that calls nothing
and has no loop costs nothing but the call. So the count is exact, in that the same work always costs the same.

Source: WebAssembly core specification 3.0, chapter "Binary Format", for instructions and multiple memories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sandbox_server.image.linking.core_module import (
    CODE,
    MEMORY,
    PREAMBLE,
    CoreModule,
    parameter_count,
)
from sandbox_server.image.linking.wasm_format import (
    Reader,
    UnsupportedFormatError,
    section,
    signed,
    sized,
    unsigned,
    vector,
)

MOST_UNITS = 64
"""Most that the beginning of a function or of an iteration costs."""

_FREE_INSTRUCTIONS = 12
"""A function that calls nothing and has no loop costs nothing up to this length."""

_LEB = rb"[\x80-\xff]*+[\x00-\x7f]"
_INSTRUCTION = re.compile(
    b"(?:"
    + b"|".join(
        (
            rb"[\x00\x01\x05\x0b\x0f\x1a\x1b\x45-\xc4\xd1]",
            rb"[\x20-\x24\x0c\x0d\x10\x41\x42\xd2]" + _LEB,
            rb"[\x28-\x3e\x11]" + _LEB + _LEB,
            rb"[\x02-\x04]" + _LEB,
            rb"[\x3f\x40\xd0].",
            rb"\x43.{4}",
            rb"\x44.{8}",
            rb"\x1c\x01.",
            rb"\xfc(?:[\x00-\x07]|\x0a..|\x0b.)",
        )
    )
    + b")",
    re.DOTALL,
)
_BLOCK, _LOOP, _IF, _END, _BR_TABLE, _CALL, _CALL_INDIRECT = 0x02, 0x03, 0x04, 0x0B, 0x0E, 0x10, 0x11

_I64 = 0x7E
_ONE_PAGE = bytes([1, 1, 1])  # at least one, at most one
_FUEL = b"\x43\x01\x00"  # aligned to 8 bytes, in memory 1, at offset 0
_LOAD_FUEL = b"\x41\x00" + b"\x41\x00\x29" + _FUEL  # i32.const 0 for the store; i32.const 0, i64.load
_STORE_FUEL = b"\x37" + _FUEL  # i64.store


def add_metering(module: bytes) -> bytes:
    """Returns a core module that counts its fuel.

    Raises:
        UnsupportedFormatError: it has an instruction that is not known here, or not one memory.
    """
    read = CoreModule.read(module)
    if len(read.memories) != 1:
        raise UnsupportedFormatError(f"a module with {len(read.memories)} memories cannot be metered")
    bodies = [
        sized(_meter(body, parameter_count(read.types[type_index])))
        for body, type_index in zip(read.bodies, read.functions, strict=True)
    ]
    replaced = {CODE: vector(bodies), MEMORY: vector([read.memories[0], _ONE_PAGE])}
    sections = [PREAMBLE]
    for number, reader in Reader(module, len(PREAMBLE)).sections():
        sections.append(section(number, replaced.get(number, module[reader.position : reader.end])))
    return b"".join(sections)


@dataclass
class _Place:
    """Where fuel is subtracted.

    Attributes:
        position: in the body.
        instructions: how many there are from here on that are not in an inner loop.
    """

    position: int
    instructions: int = 0


def _meter(body: bytes, parameters: int) -> bytes:
    """Returns the body of a function with fuel subtracted where that is due."""
    reader = Reader(body)
    groups = reader.unsigned()
    local = parameters
    start_of_groups = reader.position
    for _ in range(groups):
        local += reader.unsigned()
        reader.byte()
    places, calls = _find_places(body, reader.position)
    if len(places) == 1 and not calls and places[0].instructions <= _FREE_INSTRUCTIONS:
        return body
    entry, *loops = places
    parts = [unsigned(groups + 1), body[start_of_groups : reader.position], unsigned(1), bytes([_I64])]
    parts.append(_subtract(entry.instructions))
    position = entry.position
    for loop in loops:
        parts += [body[position : loop.position], _subtract_and_check(loop.instructions, local)]
        position = loop.position
    parts.append(body[position:])
    return b"".join(parts)


def _find_places(body: bytes, position: int) -> tuple[list[_Place], bool]:
    """Returns the beginnings of a function and of its loops, in order, and whether it calls another."""
    places = [_Place(position)]
    current = places[0]
    around: list[_Place] = []  # for each block that is open, what its instructions count for outside it
    calls = False
    while position < len(body):
        opcode = body[position]
        if opcode == _BR_TABLE:
            reader = Reader(body, position + 1)
            for _ in range(reader.unsigned() + 1):
                reader.unsigned()
            position = reader.position
        else:
            match = _INSTRUCTION.match(body, position)
            if match is None:
                raise UnsupportedFormatError(f"instruction {opcode:#x} is not known")
            position = match.end()
        current.instructions += 1
        if opcode in (_BLOCK, _IF):
            around.append(current)
        elif opcode == _LOOP:
            around.append(current)
            current = _Place(position)
            places.append(current)
        elif opcode == _END and around:
            current = around.pop()
        elif opcode in (_CALL, _CALL_INDIRECT):
            calls = True
    return places, calls


def _subtract(instructions: int) -> bytes:
    """Returns instructions that subtract fuel."""
    return _LOAD_FUEL + _less(instructions) + _STORE_FUEL


def _subtract_and_check(instructions: int, local: int) -> bytes:
    """Returns instructions that subtract fuel, and trap if there is none left."""
    variable = unsigned(local)
    tee, get = b"\x22" + variable, b"\x20" + variable
    is_negative = b"\x42\x00\x53"  # i64.const 0, i64.lt_s
    trap_if = b"\x04\x40\x00\x0b"  # if, unreachable, end
    return _LOAD_FUEL + _less(instructions) + tee + _STORE_FUEL + get + is_negative + trap_if


def _less(instructions: int) -> bytes:
    return b"\x42" + signed(min(instructions, MOST_UNITS)) + b"\x7d"  # i64.const, i64.sub
