"""Takes the code of a core module apart at its references to functions, types and globals, which linking renumbers.

Nearly all instructions are passed over by one regular expression: there are millions of them.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, NamedTuple

from sandbox_server.image.linking.wasm_format import Reader, UnsupportedFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEB = rb"[\x80-\xff]*+[\x00-\x7f]"

_PATTERNS = (
    rb"[\x00\x01\x05\x0b\x0f\x1a\x1b]",  # unreachable, nop, else, end, return, drop, select
    rb"[\x45-\xc4\xd1]",  # comparisons, arithmetic, conversions, ref.is_null
    rb"[\x20-\x22\x0c\x0d\x41\x42]" + _LEB,  # local.get, local.set, local.tee, br, br_if, i32.const, i64.const
    rb"[\x28-\x3e]" + _LEB + _LEB,  # loads and stores
    rb"[\x02-\x04][\x40\x6f\x70\x7b-\x7f]",  # block, loop, if, without a type or with that of one value
    rb"[\x3f\x40\xd0].",  # memory.size, memory.grow, ref.null
    rb"\x43.{4}",  # f32.const
    rb"\x44.{8}",  # f64.const
    rb"\x1c\x01.",  # select of a type
    rb"\xfc(?:[\x00-\x07]|\x0a..|\x0b.)",  # conversions that saturate, memory.copy, memory.fill
)

_WITH_REFERENCES = (
    rb"[\x10\x23\x24\xd2]" + _LEB,  # call, global.get, global.set, ref.func
    rb"\x11" + _LEB + _LEB,  # call_indirect
    rb"[\x02-\x04]" + _LEB,  # block, loop, if, with a type that has a number
)

_WITHOUT_REFERENCES = re.compile(b"(?:" + b"|".join(_PATTERNS) + b")*+", re.DOTALL)
_ONE = re.compile(b"|".join((*_PATTERNS, *_WITH_REFERENCES)), re.DOTALL)

BLOCK, LOOP, IF, END = 0x02, 0x03, 0x04, 0x0B
CALL, REF_FUNC = 0x10, 0xD2
_BLOCKS = (BLOCK, LOOP, IF)
_BR_TABLE, _CALL_INDIRECT, _GLOBAL_GET, _GLOBAL_SET = 0x0E, 0x11, 0x23, 0x24


class Kind(enum.Enum):
    """What an instruction refers to, by the instruction."""

    BLOCK = enum.auto()
    CALL = enum.auto()
    CALL_INDIRECT = enum.auto()
    GLOBAL_GET = enum.auto()
    GLOBAL_SET = enum.auto()
    REF_FUNC = enum.auto()


class Reference(NamedTuple):
    """An instruction with a reference.

    Attributes:
        kind: the instruction.
        opcode: its first byte.
        target: the type (of a block or of an indirect call), function or global, as its module numbers them.
    """

    kind: Kind
    opcode: int
    target: int


Code = list["bytes | Reference"]
"""A function's body: its locals and instructions, with the references apart."""

_KINDS = {CALL: Kind.CALL, _GLOBAL_GET: Kind.GLOBAL_GET, _GLOBAL_SET: Kind.GLOBAL_SET, REF_FUNC: Kind.REF_FUNC}


def split(body: bytes) -> Code:
    """Takes a function's body apart.

    Raises:
        UnsupportedFormatError: it has an instruction that is not known here, as one that changes a table.
    """
    reader = Reader(body, start_of_code(body))
    code: Code = []
    start = 0
    while True:
        match = _WITHOUT_REFERENCES.match(body, reader.position)
        reader.position = match.end() if match else reader.position
        if reader.at_end:
            break
        before = reader.position
        opcode = reader.byte()
        if opcode == _BR_TABLE:
            _pass_over_labels(reader)
            continue
        code.append(body[start:before])
        code.append(_reference(opcode, reader))
        start = reader.position
    code.append(body[start:])
    return code


def instructions(body: bytes) -> Iterator[tuple[int, int]]:
    """Yields where in a function's body each of its instructions begins and ends.

    Raises:
        UnsupportedFormatError: it has an instruction that is not known here.
    """
    reader = Reader(body, start_of_code(body))
    while not reader.at_end:
        start = reader.position
        match = _ONE.match(body, start)
        if match:
            reader.position = match.end()
        elif reader.byte() == _BR_TABLE:
            _pass_over_labels(reader)
        else:
            raise UnsupportedFormatError(f"instruction {body[start]:#x} is not known")
        yield start, reader.position


def start_of_code(body: bytes) -> int:
    """Returns where in a function's body the first instruction is, after the locals."""
    reader = Reader(body)
    for _ in range(reader.unsigned()):  # a number and a type each
        reader.unsigned()
        reader.byte()
    return reader.position


def _pass_over_labels(reader: Reader) -> None:
    for _ in range(reader.unsigned() + 1):
        reader.unsigned()


def _reference(opcode: int, reader: Reader) -> Reference:
    if opcode in _KINDS:
        return Reference(_KINDS[opcode], opcode, reader.unsigned())
    if opcode == _CALL_INDIRECT:
        type_index = reader.unsigned()
        if reader.unsigned() != 0:
            raise UnsupportedFormatError("there is more than one table")
        return Reference(Kind.CALL_INDIRECT, opcode, type_index)
    if opcode in _BLOCKS:
        type_index = reader.signed()
        if type_index >= 0:
            return Reference(Kind.BLOCK, opcode, type_index)
    raise UnsupportedFormatError(f"instruction {opcode:#x} is not known")
