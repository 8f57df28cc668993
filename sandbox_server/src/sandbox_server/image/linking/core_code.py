"""Takes the code of a core module apart at its references to functions, types and globals, which linking renumbers.

Nearly all instructions are passed over by one regular expression: there are millions of them.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from sandbox_server.image.linking.wasm_format import Reader, UnsupportedFormatError

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

_WITHOUT_REFERENCES = re.compile(b"(?:" + b"|".join(_PATTERNS) + b")*+", re.DOTALL)

_BLOCKS = (0x02, 0x03, 0x04)
_BR_TABLE, _CALL, _CALL_INDIRECT, _GLOBAL_GET, _GLOBAL_SET, _REF_FUNC = 0x0E, 0x10, 0x11, 0x23, 0x24, 0xD2


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

_KINDS = {_CALL: Kind.CALL, _GLOBAL_GET: Kind.GLOBAL_GET, _GLOBAL_SET: Kind.GLOBAL_SET, _REF_FUNC: Kind.REF_FUNC}


def split(body: bytes) -> Code:
    """Takes a function's body apart.

    Raises:
        UnsupportedFormatError: it has an instruction that is not known here, as one that changes a table.
    """
    reader = Reader(body)
    for _ in range(reader.unsigned()):  # locals: a number and a type each
        reader.unsigned()
        reader.byte()
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
            for _ in range(reader.unsigned() + 1):
                reader.unsigned()
            continue
        code.append(body[start:before])
        code.append(_reference(opcode, reader))
        start = reader.position
    code.append(body[start:])
    return code


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
