"""The linear memories of guests: mapped from the image's file, and put back to where they began when a guest is gone.

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
import errno
import itertools
import logging
import threading
from ctypes import c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wasmtime import _ffi as ffi

from sandbox_server.wasm import pages
from sandbox_server.wasm.capi import new_error
from sandbox_server.wasm.fuel_page import FUEL_MEMORY_BYTES, FuelPage
from sandbox_server.wasm.open_image import OpenImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wasmtime import Config

    from sandbox_server.wasm.allowance import MemoryAllowance
    from sandbox_server.wasm.memory_image import MemoryImage

_log = logging.getLogger(__name__)

_MOST_KEPT_MEMORIES = 64
"""So many are kept at most for guests to come, when many sandboxes lived at the same time."""

_LEAST_KEPT_MEMORIES = 4
"""So many are kept also when nobody has needed them for a while; sandboxes of `Run` come one by one."""


@dataclass(frozen=True)
class MemorySnapshot:
    """What is in a memory, as far as it is not what the image has there.

    Attributes:
        size: of the memory.
        regions: addresses in the memory, and the bytes that are there.
    """

    size: int
    regions: Sequence[tuple[int, bytes]]

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return sum(len(data) for _, data in self.regions)


class LinearMemory:
    """The memory of one guest at a time.

    Args:
        image: what it begins with, as a file that is open and its place in memory.
        minimum_bytes: its size at the beginning.
        reserved_bytes: to where it can grow without being moved.
        guard_bytes: what is around it that must not be touched.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, image: OpenImage, minimum_bytes: int, reserved_bytes: int, guard_bytes: int) -> None:
        self._image = image
        self._minimum_bytes = minimum_bytes
        self.reserved_bytes = max(reserved_bytes, minimum_bytes)
        self.guard_bytes = guard_bytes
        # The page of the fuel comes last, with a gap before it. To wasmtime a memory reaches as far as it could grow
        # and its guard does: where two overlap, a fault ends the process.
        to_fuel = guard_bytes + self.reserved_bytes + guard_bytes + FUEL_MEMORY_BYTES
        self._mapped_bytes = to_fuel + FUEL_MEMORY_BYTES
        self._mapping = pages.reserve(self._mapped_bytes)
        self.fuel = FuelPage(self._mapping + to_fuel)
        self.base = self._mapping + guard_bytes
        self.size = minimum_bytes
        self.lacked_bytes = 0
        """What the machine did not have for it, in which case its guest is stopped."""
        self._allow(0, minimum_bytes)
        image.map_at(self.base)

    def fits(self, minimum_bytes: int, reserved_bytes: int, guard_bytes: int) -> bool:
        """Whether it is of this kind."""
        wanted = minimum_bytes, max(reserved_bytes, minimum_bytes), guard_bytes
        return wanted == (self._minimum_bytes, self.reserved_bytes, self.guard_bytes)

    def grow(self, size: int) -> None:
        """Makes it as large as that.

        Raises:
            OSError: there is no room.
        """
        self._allow(self.size, size - self.size)
        self.size = size

    def grow_within(self, allowance: MemoryAllowance, size: int) -> None:
        """Makes it as large as that, as soon as the machine has the memory; if it has not, the guest is stopped.

        Raises:
            OSError: there is no room.
        """
        while self.size < size:
            step = min(size - self.size, allowance.step_bytes)
            if not allowance.take(step, lambda: self.fuel.is_stopped):
                self.lacked_bytes = size - self.size
                self.fuel.stop()
                raise OSError(errno.ENOMEM, "the machine is short of memory")
            address = self.base + self.size
            self.grow(self.size + step)
            pages.make_own(address, step)  # so that it is seen to be used

    def snapshot(self, max_bytes: int) -> MemorySnapshot | None:
        """Returns what is in it; None if that is not known, or is more than so many bytes."""
        written = self._image.find_written(self.base, self.size, max_bytes // pages.PAGE_BYTES)
        if written is None:
            return None
        regions = []
        for low, high, _ in written:
            start = low
            for page in range(low, high, pages.PAGE_BYTES):
                # A memory that was used before has pages of its own that are as at first.
                if ctypes.string_at(page, pages.PAGE_BYTES) == self._image.pristine(self.base, page):
                    regions.append((start, page))
                    start = page + pages.PAGE_BYTES
            regions.append((start, high))
        return MemorySnapshot(
            self.size,
            [(start - self.base, ctypes.string_at(start, end - start)) for start, end in regions if start < end],
        )

    def begin_with(self, snapshot: MemorySnapshot) -> None:
        """Gives it, which is as it began, the content of another of its kind.

        Raises:
            OSError: there is no room.
        """
        self.grow(snapshot.size)
        for address, data in snapshot.regions:
            ctypes.memmove(self.base + address, data, len(data))

    def reset(self) -> None:
        """Gives it its first size and content.

        Raises:
            OSError: that cannot be done; it must not be used again.
        """
        self.fuel.reset()
        self.lacked_bytes = 0
        if not self._image.restore_written(self.base, self.size):
            pages.give_back(self.base, self.size)
        if self.size > self._minimum_bytes:
            pages.protect(self.base + self._minimum_bytes, self.size - self._minimum_bytes, 0)
            self.size = self._minimum_bytes

    def close(self) -> None:
        """Frees it."""
        pages.unmap(self._mapping, self._mapped_bytes)

    def _allow(self, offset: int, size: int) -> None:
        if size:
            pages.protect(self.base + offset, size, pages.WRITABLE)


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
