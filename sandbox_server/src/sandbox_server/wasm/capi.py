"""The few calls of wasmtime's C API that its Python package has no (or only a slow) wrapper for.

The package converts every argument by asking wasmtime for the function's type each time, which costs more than a call
itself. Everything here goes by types that are known beforehand. It uses the package's private bindings, so the package
is pinned to one version.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any

from wasmtime import WasmtimeError
from wasmtime import _ffi as ffi

from sandbox_server.wasm import values

if TYPE_CHECKING:
    from wasmtime import Store
    from wasmtime.component import Func, LinkerInstance

_log = logging.getLogger(__name__)

_NO_FINALIZER = ctypes.cast(0, ctypes.CFUNCTYPE(None, c_void_p))


class TrapError(Exception):
    """A host function raises this to end its guest with a trap; the message is the trap's."""


def call_string_to_string(store: Store, function: Func, argument: str) -> str:
    """Calls an export of type `func(string) -> string`.

    Raises:
        WasmtimeError: the guest trapped.
    """
    return _call(store, function, argument, returns_string=True)


def call_string(store: Store, function: Func, argument: str) -> None:
    """Calls an export of type `func(string)`.

    Raises:
        WasmtimeError: the guest trapped.
    """
    _call(store, function, argument, returns_string=False)


def _call(store: Store, function: Func, argument: str, *, returns_string: bool) -> str:
    parameter = ffi.wasmtime_component_val()
    values.set_string(parameter, argument)
    result = ffi.wasmtime_component_val()
    raw = byref(function._func)  # noqa: SLF001
    context = store._context()  # noqa: SLF001
    error = ffi.wasmtime_component_func_call(raw, context, byref(parameter), 1, byref(result), int(returns_string))
    ffi.wasmtime_component_val_delete(byref(parameter))
    _raise_if(error)
    text = _take_string(result) if returns_string else ""
    error = ffi.wasmtime_component_func_post_return(raw, context)
    _raise_if(error)
    return text


class HostCall:
    """A call of a host function: its arguments by position and type, and the place for its result.

    Args:
        context: the C context of the store.
        arguments: the C array of arguments.
        result: the C value of the result.
    """

    __slots__ = ("_arguments", "_context", "_result")

    def __init__(self, context: Any, arguments: Any, result: Any) -> None:
        self._context = context
        self._arguments = arguments
        self._result = result

    def integer(self, index: int) -> int:
        """Returns a `u32` or `u64` argument."""
        value = self._arguments[index]
        return int(value.of.u64 if value.kind == values.U64 else value.of.u32)

    def string(self, index: int, max_bytes: int | None = None) -> str:
        """Returns a `string` argument.

        Raises:
            TrapError: it is longer than it may be; before it is copied.
        """
        value = self._arguments[index]
        if max_bytes is not None and value.of.string.size > max_bytes:
            raise TrapError(f"a text of {value.of.string.size} bytes is too long; at most {max_bytes} are taken")
        return _take_string(value)

    def byte_list(self, index: int) -> bytes:
        """Returns a `list<u8>` argument."""
        vector = self._arguments[index].of.list
        size = int(vector.size)
        if not size:
            return b""
        return ctypes.string_at(vector.data, size * values.VAL_BYTES)[values.PAYLOAD_OFFSET :: values.VAL_BYTES]

    def is_ok(self, index: int) -> bool:
        """Returns whether a `result` argument is ok."""
        return bool(self._arguments[index].of.result.is_ok)

    def resource(self, index: int) -> int:
        """Returns the host's representation of a `borrow` argument."""
        return self._representation(self._arguments[index])

    def resource_list(self, index: int) -> list[int]:
        """Returns the host's representations of a `list<borrow>` argument."""
        vector = self._arguments[index].of.list
        return [self._representation(vector.data[position]) for position in range(vector.size)]

    def return_u64(self, value: int) -> None:
        """Returns a `u64`."""
        values.set_u64(self._result[0], value)

    def return_string(self, value: str) -> None:
        """Returns a `string`."""
        values.set_string(self._result[0], value)

    def flags(self, index: int) -> set[str]:
        """Returns the names of the flags that are set."""
        vector = self._arguments[index].of.flags
        return {_text(vector.data[position]) for position in range(vector.size)}

    def timestamp(self, index: int, current_ns: int, now_ns: int) -> int:
        """Returns what a `new-timestamp` argument means, in nanoseconds, for one that is `current_ns`."""
        variant = self._arguments[index].of.variant
        case = _text(variant.discriminant)
        if case != "timestamp":
            return now_ns if case == "now" else current_ns
        record = variant.val.contents.of.record
        seconds, nanoseconds = (record.data[position].val.of for position in range(2))
        return int(seconds.u64) * 1_000_000_000 + int(nanoseconds.u32)

    def return_value(self, put: values.Put) -> None:
        """Returns a value of any type."""
        put(self._result[0])

    def return_ok(self, put: values.Put | None = None) -> None:
        """Returns a `result` that is ok, with a value or without one."""
        values.result(put, is_ok=True)(self._result[0])

    def return_error(self, put: values.Put) -> None:
        """Returns a `result` that is an error."""
        values.result(put, is_ok=False)(self._result[0])

    def own(self, representation: int, type_number: int) -> values.Put:
        """An `own` of a host resource."""

        def put(val: Any) -> None:
            host = ffi.wasmtime_component_resource_host_new(True, representation, type_number)
            pointer = ctypes.POINTER(ffi.wasmtime_component_resource_any_t)()
            error = ffi.wasmtime_component_resource_host_to_any(self._context, host, byref(pointer))
            ffi.wasmtime_component_resource_host_delete(host)
            _raise_if(error)
            values.set_resource(val, pointer)

        return put

    def _representation(self, value: Any) -> int:
        host = ctypes.POINTER(ffi.wasmtime_component_resource_host_t)()
        error = ffi.wasmtime_component_resource_any_to_host(self._context, value.of.resource, byref(host))
        _raise_if(error)
        representation = int(ffi.wasmtime_component_resource_host_rep(host))
        ffi.wasmtime_component_resource_host_delete(host)
        return representation


HostFunction = Callable[[HostCall], "str | None"]
"""Serves a call; returns None, or the message of the trap that ends the guest."""


def add_function(instance: LinkerInstance, name: str, function: HostFunction) -> object:
    """Defines a host function.

    Args:
        instance: where it is defined.
        name: its name in WIT.
        function: serves the calls. If it raises, the guest ends with a trap; all but `TrapError` is logged.

    Returns:
        An object that must be kept alive as long as the linker.
    """

    def call(_data: Any, context: Any, _type: Any, arguments: Any, _count: Any, result: Any, _results: Any) -> int:
        try:
            message = function(HostCall(context, arguments, result))
        except TrapError as error:
            message = str(error)
        except Exception:  # noqa: BLE001 - an exception must not unwind into C
            _log.exception("host function %s failed", name)
            message = f"host function {name} failed"
        return 0 if message is None else new_error(message)

    callback = ffi.wasmtime_component_func_callback_t(call)
    encoded = name.encode()
    error = ffi.wasmtime_component_linker_instance_add_func(
        instance.ptr(), ctypes.create_string_buffer(encoded), len(encoded), callback, None, _NO_FINALIZER
    )
    _raise_if(error)
    return callback


def _raise_if(error: Any) -> None:
    """Raises the error that a C function returned, if it did."""
    if error:
        raise WasmtimeError._from_ptr(error)  # noqa: SLF001


def _take_string(value: Any) -> str:
    vector = value.of.string
    text = ctypes.string_at(vector.data, vector.size).decode() if vector.size else ""
    ffi.wasm_byte_vec_delete(byref(vector))
    return text


def _text(vector: Any) -> str:
    """Returns the text in a C vector of bytes, and leaves that to its owner."""
    return ctypes.string_at(vector.data, vector.size).decode()


def new_error(message: str) -> int:
    """Returns an error for C to take, as the address of a `wasmtime_error_t`."""
    pointer = ffi.wasmtime_error_new(ctypes.create_string_buffer(message.encode()))
    return int(ctypes.cast(pointer, c_void_p).value or 0)
