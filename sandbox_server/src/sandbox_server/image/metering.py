"""Has the code of a core module count its own fuel, in a memory of its own.

wasmtime can count fuel, and can interrupt code when its epoch moves on; both together cost half as much again as the
code itself. Here one subtraction does both. It stands at the beginning of each iteration of a loop and of each function
that may be called again before it returns, and takes what that costs from a number in a second memory, which may become
negative. No instruction of the module's own can touch that memory. The host has the page under it: it writes the fuel
there and reads what is left at any time, even after a trap; and to stop the code, as when the number is negative, it
makes the page read-only, so that the next subtraction traps (see `wasm.fuel_page` and `fuel_watch`).

A function costs as many units as it has instructions outside loops, an iteration as many as the loop has outside inner
loops, each at most `MOST_UNITS`: of a large body only a small part runs at a time. A function that is called by name
only, and by none of those that it calls, costs nothing itself: there is an end to how much of such code can run between
two subtractions. So the count is exact, in that the same work always costs the same.

Source: WebAssembly core specification 3.0, chapter "Binary Format", for instructions and multiple memories.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sandbox_server.image.call_cycles import in_cycles
from sandbox_server.image.linking import core_code
from sandbox_server.image.linking.core_module import CODE, MEMORY, PREAMBLE, SORT_FUNCTION, CoreModule
from sandbox_server.image.linking.wasm_format import (
    Reader,
    UnsupportedFormatError,
    section,
    signed,
    sized,
    vector,
)

MOST_UNITS = 64
"""Most that the beginning of a function or of an iteration costs."""

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
    functions = [_read_function(body) for body in read.bodies]
    imported = len(read.imports_of(SORT_FUNCTION))
    calls = [{target - imported for target in one.calls if target >= imported} for one in functions]
    by_address = {index - imported for segment in read.elements for index in segment.functions}
    by_address |= {target - imported for one in functions for target in one.addresses}
    metered = by_address | in_cycles(calls)
    bodies = [
        sized(_meter(body, one.places if number in metered else one.places[1:]))
        for number, (body, one) in enumerate(zip(read.bodies, functions, strict=True))
    ]
    replaced = {CODE: vector(bodies), MEMORY: vector([read.memories[0], _ONE_PAGE])}
    sections = [PREAMBLE]
    for number, reader in Reader(module, len(PREAMBLE)).sections():
        sections.append(section(number, replaced.get(number, module[reader.position : reader.end])))
    return b"".join(sections)


@dataclass
class _Place:
    """Where fuel may be subtracted.

    Attributes:
        position: in the body.
        instructions: how many there are from here on that are not in an inner loop.
    """

    position: int
    instructions: int = 0


@dataclass
class _Function:
    """What is in a function.

    Attributes:
        places: its beginning, then those of its loops, in order.
        calls: the functions that it calls by name.
        addresses: those that it makes references to.
    """

    places: list[_Place]
    calls: set[int] = field(default_factory=set)
    addresses: set[int] = field(default_factory=set)


def _meter(body: bytes, places: list[_Place]) -> bytes:
    """Returns the body of a function with fuel subtracted at places."""
    parts = []
    position = 0
    for place in places:
        parts += [body[position : place.position], _subtract(place.instructions)]
        position = place.position
    parts.append(body[position:])
    return b"".join(parts)


def _read_function(body: bytes) -> _Function:
    current = _Place(core_code.start_of_code(body))
    function = _Function([current])
    around: list[_Place] = []  # for each block that is open, what its instructions count for outside it
    for start, end in core_code.instructions(body):
        current.instructions += 1
        opcode = body[start]
        if opcode in (core_code.BLOCK, core_code.IF):
            around.append(current)
        elif opcode == core_code.LOOP:
            around.append(current)
            current = _Place(end)
            function.places.append(current)
        elif opcode == core_code.END and around:
            current = around.pop()
        elif opcode == core_code.CALL:
            function.calls.add(Reader(body, start + 1).unsigned())
        elif opcode == core_code.REF_FUNC:
            function.addresses.add(Reader(body, start + 1).unsigned())
    return function


def _subtract(instructions: int) -> bytes:
    """Returns instructions that subtract fuel."""
    units = min(instructions, MOST_UNITS)
    return _LOAD_FUEL + b"\x42" + signed(units) + b"\x7d" + _STORE_FUEL  # i64.const, i64.sub
