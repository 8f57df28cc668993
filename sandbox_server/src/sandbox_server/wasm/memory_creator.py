"""Makes the linear memories of guests, and keeps those that guests leave behind for the guests to come.

A sandbox shares the image's pages until it writes to them. Left to wasmtime, each new one pays for the first touch of
some three hundred pages, which takes the kernel longer than the interpreter needs for a short cell. So a memory that a
guest leaves behind is kept: the pages that were written to, which the kernel knows, get their first content again, and
the next guest finds them in place. Nothing of the guest before is left in it.

Source: wasmtime's `MemoryCreator`. Where the kernel does not know which pages were written to, as before Linux 6.7, a
memory is kept all the same, but all its pages are given back.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import threading
from ctypes import c_void_p
from typing import TYPE_CHECKING, Any

from wasmtime import _ffi as ffi

from sandbox_server.wasm.capi import new_error
from sandbox_server.wasm.fuel_page import FUEL_MEMORY_BYTES
from sandbox_server.wasm.linear_memory import LinearMemory
from sandbox_server.wasm.open_image import OpenImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wasmtime import Config

    from sandbox_server.wasm.allowance import MemoryAllowance
    from sandbox_server.wasm.linear_memory import MemorySnapshot
    from sandbox_server.wasm.memory_image import MemoryImage

_log = logging.getLogger(__name__)

_MOST_KEPT_MEMORIES = 128
"""So many are kept at most for guests to come, when many sandboxes lived at the same time."""

_LEAST_KEPT_MEMORIES = 4
"""So many are kept also when nobody has needed them for a while; sandboxes of `Run` come one by one."""


class LinearMemories:
    """Makes the memories of an engine's guests. The engine may be used by many threads.

    Args:
        image: what each begins with.
        allowance: says when they may grow; None lets them.
    """

    def __init__(self, image: MemoryImage, allowance: MemoryAllowance | None = None) -> None:
        self._image = OpenImage(image)
        self._allowance = allowance
        self._free: list[LinearMemory] = []
        self._never_taken = 0
        """How many of those that are free, from the first on, nobody has needed since `release_unneeded`."""
        self._living: dict[int, LinearMemory] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._made = threading.local()
        self._callbacks = (
            ffi.wasmtime_new_memory_callback_t(self._on_new),
            ffi.wasmtime_memory_get_callback_t(self._on_get),
            ffi.wasmtime_memory_grow_callback_t(self._on_grow),
            ctypes.CFUNCTYPE(None, c_void_p)(self._on_end),
        )
        self._fuel_callbacks = (
            None,
            ffi.wasmtime_memory_get_callback_t(self._on_get_fuel),
            ffi.wasmtime_memory_grow_callback_t(lambda _address, _size: new_error("it cannot grow")),
            ctypes.CFUNCTYPE(None, c_void_p)(lambda _address: None),
        )

    def install(self, config: Config) -> None:
        """Has an engine with this configuration take its memories from here; it must not live longer than this."""
        creator = ffi.wasmtime_memory_creator()
        creator.new_memory = self._callbacks[0]  # type: ignore[assignment] # the stubs take functions for pointers
        ffi.wasmtime_config_host_memory_creator_set(config.ptr(), ctypes.byref(creator))

    @contextlib.contextmanager
    def beginning_with(self, snapshot: MemorySnapshot | None) -> Iterator[None]:
        """Has a memory that this thread makes begin with a snapshot, as long as the context lasts."""
        self._made.beginning = snapshot
        try:
            yield
        finally:
            self._made.beginning = None

    def last_made(self) -> LinearMemory:
        """Returns the memory that was made last on this thread."""
        memory: LinearMemory = self._made.memory
        return memory

    def counts(self) -> tuple[int, int]:
        """Returns how many memories are in use, and how many are kept for guests to come."""
        return len(self._living), len(self._free)

    def release_unneeded(self) -> None:
        """Frees what is kept and was not needed since the last call, but for a few memories."""
        with self._lock:
            count = max(0, min(self._never_taken, len(self._free) - _LEAST_KEPT_MEMORIES))
            unneeded, self._free = self._free[:count], self._free[count:]
            self._never_taken = len(self._free)
        for memory in unneeded:
            memory.close()

    def _on_new(
        self, _data: Any, _type: Any, minimum: int, maximum: int, reserved: int, guard: int, result: Any
    ) -> int:
        made = result[0]
        if maximum == FUEL_MEMORY_BYTES:
            # It comes after the other, and is freed with it.
            _, made.get_memory, made.grow_memory, made.finalizer = self._fuel_callbacks
            made.env = self._made.memory.fuel.address
            return 0
        try:
            memory = self._take(minimum, reserved, guard)
        except OSError as error:
            return new_error(f"a memory could not be made: {error}")
        number = next(self._numbers)
        self._living[number] = memory
        self._made.memory = memory
        made.env = number
        _, made.get_memory, made.grow_memory, made.finalizer = self._callbacks
        return 0

    def _take(self, minimum: int, reserved: int, guard: int) -> LinearMemory:
        memory = self._take_free(minimum, reserved, guard) or LinearMemory(self._image, minimum, reserved, guard)
        snapshot: MemorySnapshot | None = getattr(self._made, "beginning", None)
        if snapshot is not None:
            try:
                memory.begin_with(snapshot)
            except OSError:
                memory.close()
                raise
        return memory

    def _take_free(self, minimum: int, reserved: int, guard: int) -> LinearMemory | None:
        with self._lock:
            for memory in reversed(self._free):  # the last is most likely to be in the processor's caches
                if memory.fits(minimum, reserved, guard):
                    self._free.remove(memory)
                    self._never_taken = min(self._never_taken, len(self._free))
                    return memory
        return None

    def _on_get(self, number: int, size: Any, capacity: Any) -> int:
        memory = self._living[number]
        size[0] = memory.size
        capacity[0] = memory.reserved_bytes
        return memory.base

    @staticmethod
    def _on_get_fuel(address: int, size: Any, capacity: Any) -> int:
        size[0] = capacity[0] = FUEL_MEMORY_BYTES
        return address

    def _on_grow(self, number: int, size: int) -> int:
        try:
            memory = self._living[number]
            if self._allowance is None:
                memory.grow(size)
            else:
                memory.grow_within(self._allowance, size)
        except OSError as error:
            return new_error(f"a memory cannot grow: {error}")
        return 0

    def _on_end(self, number: int) -> None:
        memory = self._living.pop(number)
        try:
            if len(self._free) < _MOST_KEPT_MEMORIES:
                memory.reset()
                with self._lock:
                    self._free.append(memory)
                return
        except OSError:
            _log.exception("a memory could not be reset")
        memory.close()
