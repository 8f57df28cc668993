"""Builds values of the component model for wasmtime's C API, in the place where they are wanted.

Each function returns a `Put`, which fills a C value; those of composite values take the `Put`s of their parts. Types go
by what the caller knows: nothing is looked up.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref
from typing import TYPE_CHECKING, Any

from wasmtime import _ffi as ffi

if TYPE_CHECKING:
    from collections.abc import Sequence

Put = Callable[[Any], None]
"""Fills a `wasmtime_component_val`."""

_BOOL = int(ffi.WASMTIME_COMPONENT_BOOL.value)
_U8 = int(ffi.WASMTIME_COMPONENT_U8.value)
_U32 = int(ffi.WASMTIME_COMPONENT_U32.value)
U64 = int(ffi.WASMTIME_COMPONENT_U64.value)
_STRING = int(ffi.WASMTIME_COMPONENT_STRING.value)
_LIST = int(ffi.WASMTIME_COMPONENT_LIST.value)
_RECORD = int(ffi.WASMTIME_COMPONENT_RECORD.value)
_TUPLE = int(ffi.WASMTIME_COMPONENT_TUPLE.value)
_ENUM = int(ffi.WASMTIME_COMPONENT_ENUM.value)
_OPTION = int(ffi.WASMTIME_COMPONENT_OPTION.value)
_FLAGS = int(ffi.WASMTIME_COMPONENT_FLAGS.value)
_VARIANT = int(ffi.WASMTIME_COMPONENT_VARIANT.value)
_RESULT = int(ffi.WASMTIME_COMPONENT_RESULT.value)
_RESOURCE = int(ffi.WASMTIME_COMPONENT_RESOURCE.value)

VAL_BYTES = ctypes.sizeof(ffi.wasmtime_component_val)
PAYLOAD_OFFSET = ffi.wasmtime_component_val.of.offset

_ZERO_U8 = bytes([_U8]).ljust(VAL_BYTES, b"\0")
"""The image in memory of the `u8` 0."""


def boolean(value: bool) -> Put:
    """A `bool`."""

    def put(val: Any) -> None:
        val.kind = _BOOL
        val.of.boolean = value

    return put


def u32(value: int) -> Put:
    """A `u32`."""

    def put(val: Any) -> None:
        val.kind = _U32
        val.of.u32 = value

    return put


def u64(value: int) -> Put:
    """A `u64`."""
    return lambda val: set_u64(val, value)


def string(value: str) -> Put:
    """A `string`."""
    return lambda val: set_string(val, value)


def enum_case(name: str) -> Put:
    """An enum."""

    def put(val: Any) -> None:
        val.kind = _ENUM
        val.of.enumeration = _vector(name.encode())

    return put


def flags(names: Sequence[str]) -> Put:
    """Flags, of which those named are set."""

    def put(val: Any) -> None:
        vector = ffi.wasmtime_component_valflags_t()
        ffi.wasmtime_component_valflags_new_uninit(byref(vector), len(names))
        for position, name in enumerate(names):
            vector.data[position] = _vector(name.encode())
        val.kind = _FLAGS
        val.of.flags = vector

    return put


def none() -> Put:
    """An `option` that is none."""

    def put(val: Any) -> None:
        val.kind = _OPTION
        val.of.option = None

    return put


def some(part: Put) -> Put:
    """An `option` that is not none."""

    def put(val: Any) -> None:
        val.kind = _OPTION
        val.of.option = _boxed(part)

    return put


def record(fields: dict[str, Put]) -> Put:
    """A record, its fields in the order of the type."""

    def put(val: Any) -> None:
        vector = ffi.wasmtime_component_valrecord_t()
        ffi.wasmtime_component_valrecord_new_uninit(byref(vector), len(fields))
        for position, (name, part) in enumerate(fields.items()):
            vector.data[position].name = _vector(name.encode())
            part(vector.data[position].val)
        val.kind = _RECORD
        val.of.record = vector

    return put


def tuple_of(parts: Sequence[Put]) -> Put:
    """A `tuple`."""

    def put(val: Any) -> None:
        vector = ffi.wasmtime_component_valtuple_t()
        ffi.wasmtime_component_valtuple_new_uninit(byref(vector), len(parts))
        for position, part in enumerate(parts):
            part(vector.data[position])
        val.kind = _TUPLE
        val.of.tuple = vector

    return put


def value_list(parts: Sequence[Put]) -> Put:
    """A `list`."""

    def put(val: Any) -> None:
        vector = _new_list(val, len(parts))
        for position, part in enumerate(parts):
            part(vector.data[position])

    return put


def byte_list(data: bytes) -> Put:
    """A `list<u8>`."""

    def put(val: Any) -> None:
        vector = _new_list(val, len(data))
        if data:
            # Every byte is a C value of its own: filled with what is the same in all, then the bytes themselves at
            # their distance, both by C.
            address = ctypes.addressof(vector.data.contents)
            image = memoryview((ctypes.c_char * (len(data) * VAL_BYTES)).from_address(address)).cast("B")
            image[:] = _ZERO_U8 * len(data)
            image[PAYLOAD_OFFSET::VAL_BYTES] = data

    return put


def variant_case(name: str, part: Put | None = None) -> Put:
    """A variant, in a case with a payload or without one."""

    def put(val: Any) -> None:
        val.kind = _VARIANT
        val.of.variant.discriminant = _vector(name.encode())
        val.of.variant.val = None if part is None else _boxed(part)

    return put


def result(part: Put | None, *, is_ok: bool) -> Put:
    """A `result`."""

    def put(val: Any) -> None:
        val.kind = _RESULT
        val.of.result.is_ok = is_ok
        val.of.result.val = None if part is None else _boxed(part)

    return put


def set_u64(val: Any, value: int) -> None:
    """Fills a C value with a `u64`."""
    val.kind = U64
    val.of.u64 = value


def set_string(val: Any, value: str) -> None:
    """Fills a C value with a `string`."""
    val.kind = _STRING
    val.of.string = _vector(value.encode())


def set_resource(val: Any, pointer: Any) -> None:
    """Fills a C value with a resource."""
    val.kind = _RESOURCE
    val.of.resource = pointer


def _boxed(part: Put) -> Any:
    """Returns a pointer to a C value of its own, which the C API frees."""
    payload = ffi.wasmtime_component_val()
    part(payload)
    return ffi.wasmtime_component_val_new(byref(payload))


def _vector(data: bytes) -> Any:
    """Returns a C vector of bytes, which the C API frees."""
    vector = ffi.wasm_byte_vec_t()
    ffi.wasm_byte_vec_new_uninitialized(byref(vector), len(data))
    ctypes.memmove(vector.data, data, len(data))
    return vector


def _new_list(val: Any, size: int) -> Any:
    vector = ffi.wasmtime_component_vallist_t()
    ffi.wasmtime_component_vallist_new_uninit(byref(vector), size)
    val.kind = _LIST
    val.of.list = vector
    return vector
