"""The linear memories of guests: mapped from the image's file, and put back to where they began when a guest is gone.

A sandbox shares the image's pages until it writes to them. Left to wasmtime, each new one pays for the first touch of
some three hundred pages, which takes the kernel longer than the interpreter needs for a short cell. So a memory that a
guest leaves behind is kept: the pages that were written to, which the kernel knows, get their first content again, and
the next guest finds them in place. Nothing of the guest before is left in it.

Source: wasmtime's `MemoryCreator`; `PAGEMAP_SCAN` of Linux 6.7, `Documentation/admin-guide/mm/pagemap.rst`. Where the
kernel lacks that, a memory is kept all the same, but all its pages are given back.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import mmap
import os
import struct
import sys
import threading
from ctypes import c_int, c_long, c_size_t, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wasmtime import _ffi as ffi

from sandbox_server.wasm.capi import new_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wasmtime import Config

    from sandbox_server.wasm.memory_image import MemoryImage

_log = logging.getLogger(__name__)

_KEPT_MEMORIES = 4
"""So many are kept for guests to come; sandboxes that live long have theirs, and those of `Run` come one by one."""

_KEPT_PAGES = 1024
"""A kept memory has at most so many pages of its own; one that has more begins with none again."""

_PLENTY = 2**63 - 1
"""The fuel with which an instance is made."""

_FUEL_BYTES = 65536
"""The size of the second memory, and the most that it may have, which tells it from the first."""

_MAP_NORESERVE = 0x4000
_MAP_FIXED = 0x10
_MADV_DONTNEED = 4
_PAGE_BYTES = mmap.PAGESIZE
_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE

# Of <linux/fs.h>.
_PAGEMAP_SCAN = 0xC0606610
_PAGE_IS_FILE, _PAGE_IS_PRESENT, _PAGE_IS_SWAPPED = 1 << 2, 1 << 3, 1 << 4
_SCAN = struct.Struct("<12Q")
_WALK_END = 4
"""Which of its members says how far the kernel got before there was no room for more."""

_REGION = struct.Struct("<3Q")
_MOST_REGIONS = 2048

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = c_void_p
_libc.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
_libc.munmap.argtypes = [c_void_p, c_size_t]
_libc.mprotect.argtypes = [c_void_p, c_size_t, c_int]
_libc.madvise.argtypes = [c_void_p, c_size_t, c_int]
_libc.ioctl.argtypes = [c_int, ctypes.c_ulong, c_void_p]


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


class FuelPage:
    """The second memory of a guest, of which only its fuel is there; see `image.metering`.

    Args:
        address: where it is.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, address: int) -> None:
        self.address = address
        self._number = ctypes.c_int64.from_address(address)
        self.reset()

    @property
    def left(self) -> int:
        """The fuel that is left; negative if a guest wanted more than there was."""
        return self._number.value

    def set(self, fuel: int) -> None:
        """Sets the fuel. Does nothing if the guest was interrupted."""
        with self._lock:
            if not self._is_stopped:
                self._number.value = fuel

    def stop(self) -> None:
        """Has the guest trap when it uses fuel the next time, which it does all the time."""
        with self._lock:
            self._is_stopped = True
            _check(_libc.mprotect(self.address, _PAGE_BYTES, mmap.PROT_READ))

    def reset(self) -> None:
        """Makes it ready for the next guest."""
        _check(_libc.mprotect(self.address, _PAGE_BYTES, _WRITABLE))
        self._lock = threading.Lock()
        self._is_stopped = False
        self._number.value = _PLENTY


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

    def __init__(self, image: _OpenImage, minimum_bytes: int, reserved_bytes: int, guard_bytes: int) -> None:
        self._image = image
        self._minimum_bytes = minimum_bytes
        self.reserved_bytes = max(reserved_bytes, minimum_bytes)
        self.guard_bytes = guard_bytes
        # The page of the fuel comes last, with a gap before it. To wasmtime a memory reaches as far as it could grow
        # and its guard does: where two overlap, a fault ends the process.
        to_fuel = guard_bytes + self.reserved_bytes + guard_bytes + _FUEL_BYTES
        self._mapped_bytes = to_fuel + _FUEL_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._mapping = _address(_libc.mmap(None, self._mapped_bytes, 0, flags, -1, 0))
        self.fuel = FuelPage(self._mapping + to_fuel)
        self.base = self._mapping + guard_bytes
        self.size = minimum_bytes
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

    def snapshot(self, max_bytes: int) -> MemorySnapshot | None:
        """Returns what is in it; None if that is not known, or is more than so many bytes."""
        written = self._image.find_written(self.base, self.size, max_bytes // _PAGE_BYTES)
        if written is None:
            return None
        regions = []
        for low, high, _ in written:
            start = low
            for page in range(low, high, _PAGE_BYTES):
                # A memory that was used before has pages of its own that are as at first.
                if ctypes.string_at(page, _PAGE_BYTES) == self._image.pristine(self.base, page):
                    regions.append((start, page))
                    start = page + _PAGE_BYTES
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
        if not self._image.restore_written(self.base, self.size):
            _check(_libc.madvise(self.base, self.size, _MADV_DONTNEED))
        if self.size > self._minimum_bytes:
            _check(_libc.mprotect(self.base + self._minimum_bytes, self.size - self._minimum_bytes, 0))
            self.size = self._minimum_bytes

    def close(self) -> None:
        """Frees it."""
        _check(_libc.munmap(self._mapping, self._mapped_bytes))

    def _allow(self, offset: int, size: int) -> None:
        if size:
            _check(_libc.mprotect(self.base + offset, size, _WRITABLE))


class _OpenImage:
    """A file of an image, ready to be mapped and to be copied from."""

    def __init__(self, image: MemoryImage) -> None:
        self._image = image
        self._file = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
        self._pristine = self._map(None, mmap.PROT_READ, mmap.MAP_SHARED)
        self._pagemap = _open_pagemap()

    def map_at(self, base: int) -> None:
        """Makes it the content of a memory, in which it is shared until it is written to."""
        self._map(base + self._image.address, _WRITABLE, mmap.MAP_PRIVATE | _MAP_FIXED)

    def _map(self, address: int | None, protection: int, flags: int) -> int:
        image = self._image
        return _address(_libc.mmap(address, image.size, protection, flags, self._file, image.file_offset))

    def restore_written(self, base: int, size: int) -> bool:
        """Gives the pages of a memory that were written to their first content.

        Returns:
            False if it is not known which they are, or they are too many: then nothing was done.
        """
        written = self.find_written(base, size, _KEPT_PAGES)
        if written is None:
            return False
        start = base + self._image.address
        end = start + self._image.size
        to_pristine = self._pristine - start
        for low, high, _ in written:
            if low >= start and high <= end:
                ctypes.memmove(low, low + to_pristine, high - low)
                continue
            ctypes.memset(low, 0, high - low)  # what is not of the image was zero
            image_low, image_high = max(low, start), min(high, end)
            if image_low < image_high:
                ctypes.memmove(image_low, image_low + to_pristine, image_high - image_low)
        return True

    def pristine(self, base: int, page: int) -> bytes:
        """Returns what a page of a memory began with."""
        offset = page - base - self._image.address
        if 0 <= offset < self._image.size:
            return ctypes.string_at(self._pristine + offset, _PAGE_BYTES)
        return bytes(_PAGE_BYTES)

    def find_written(self, base: int, size: int, most_pages: int) -> list[tuple[int, int, int]] | None:
        """Returns the regions of pages that a memory has of its own: start, end, and what is not asked for.

        Returns:
            None if that is not known, or there are more pages, or very many regions.
        """
        if self._pagemap is None:
            return None
        regions = ctypes.create_string_buffer(_REGION.size * _MOST_REGIONS)
        request = ctypes.create_string_buffer(
            _SCAN.pack(
                *(_SCAN.size, 0, base, base + size, 0, ctypes.addressof(regions), _MOST_REGIONS, most_pages),
                *(_PAGE_IS_FILE, _PAGE_IS_FILE, _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED, 0),
            ),
            _SCAN.size,
        )
        count = _libc.ioctl(self._pagemap, _PAGEMAP_SCAN, request)
        if count < 0:
            _log.info("memories are mapped anew for each sandbox, as PAGEMAP_SCAN fails: %s", _last_error())
            self._pagemap = None
            return None
        if _SCAN.unpack(request)[_WALK_END] != base + size:
            return None
        return list(_REGION.iter_unpack(memoryview(regions)[: count * _REGION.size]))


class LinearMemories:
    """Makes the memories of an engine's guests. The engine may be used by many threads.

    Args:
        image: what each begins with.
    """

    def __init__(self, image: MemoryImage) -> None:
        self._image = _OpenImage(image)
        self._free: list[LinearMemory] = []
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

    def _on_new(
        self, _data: Any, _type: Any, minimum: int, maximum: int, reserved: int, guard: int, result: Any
    ) -> int:
        made = result[0]
        if maximum == _FUEL_BYTES:
            # It comes after the other, and is freed with it.
            _, made.get_memory, made.grow_memory, made.finalizer = self._fuel_callbacks
            made.env = self._made.memory.fuel.address
            return 0
        try:
            memory = self._take(minimum, reserved, guard)
            snapshot: MemorySnapshot | None = getattr(self._made, "beginning", None)
            if snapshot is not None:
                memory.begin_with(snapshot)
        except OSError as error:
            return new_error(f"a memory could not be made: {error}")
        number = next(self._numbers)
        self._living[number] = memory
        self._made.memory = memory
        made.env = number
        _, made.get_memory, made.grow_memory, made.finalizer = self._callbacks
        return 0

    def _take(self, minimum: int, reserved: int, guard: int) -> LinearMemory:
        with self._lock:
            for memory in reversed(self._free):
                if memory.fits(minimum, reserved, guard):
                    self._free.remove(memory)
                    return memory
        return LinearMemory(self._image, minimum, reserved, guard)

    def _on_get(self, number: int, size: Any, capacity: Any) -> int:
        memory = self._living[number]
        size[0] = memory.size
        capacity[0] = memory.reserved_bytes
        return memory.base

    @staticmethod
    def _on_get_fuel(address: int, size: Any, capacity: Any) -> int:
        size[0] = capacity[0] = _FUEL_BYTES
        return address

    def _on_grow(self, number: int, size: int) -> int:
        try:
            self._living[number].grow(size)
        except OSError as error:
            return new_error(f"a memory cannot grow: {error}")
        return 0

    def _on_end(self, number: int) -> None:
        memory = self._living.pop(number)
        try:
            if len(self._free) < _KEPT_MEMORIES:
                memory.reset()
                with self._lock:
                    self._free.append(memory)
                return
        except OSError:
            _log.exception("a memory could not be reset")
        memory.close()


def _address(mapped: int | None) -> int:
    if mapped is None or mapped == c_void_p(-1).value:
        raise _last_error()
    return mapped


def _check(result: int) -> None:
    if result != 0:
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _open_pagemap() -> int | None:
    if sys.platform != "linux":
        return None
    try:
        return os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
