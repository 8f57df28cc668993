"""The operating system's memory: mapping, protecting, and finding out what was written to.

Source: mmap(2), mprotect(2), madvise(2); `PAGEMAP_SCAN` of Linux 6.7, `Documentation/admin-guide/mm/pagemap.rst`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from ctypes import c_int, c_long, c_size_t, c_void_p

PAGE_BYTES = mmap.PAGESIZE
WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE

_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_MAP_FIXED = 0x10
_MADV_DONTNEED = 4
_MADV_POPULATE_WRITE = 23 if sys.platform == "linux" else None

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


def reserve(size: int) -> int:
    """Returns the address of so many bytes that nobody may touch yet.

    Raises:
        OSError: there is no room for them.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return _address(_libc.mmap(None, size, 0, flags, -1, 0))


def map_file(file: int, offset: int, size: int, *, private_at: int | None = None) -> int:
    """Maps a part of a file; returns its address.

    Args:
        file: descriptor.
        offset: of the part in the file.
        size: of the part.
        private_at: where it is mapped, to be written to without changing the file; None maps it anywhere, to be read.

    Raises:
        OSError: it cannot be mapped.
    """
    if private_at is None:
        return _address(_libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, offset))
    return _address(_libc.mmap(private_at, size, WRITABLE, mmap.MAP_PRIVATE | _MAP_FIXED, file, offset))


def protect(address: int, size: int, protection: int) -> None:
    """Changes what may be done with memory.

    Raises:
        OSError: it cannot be changed.
    """
    _check(_libc.mprotect(address, size, protection))


def give_back(address: int, size: int) -> None:
    """Gives pages back; what is read there next is what was mapped, or zeros.

    Raises:
        OSError: they cannot be given back.
    """
    _check(_libc.madvise(address, size, _MADV_DONTNEED))


def make_own(address: int, size: int) -> None:
    """Has the kernel find memory for pages now, and not when each is touched. Linux before 5.14 does the latter.

    Raises:
        OSError: there is none.
    """
    if _MADV_POPULATE_WRITE is not None:
        try:
            _check(_libc.madvise(address, size, _MADV_POPULATE_WRITE))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise


def unmap(address: int, size: int) -> None:
    """Frees what was reserved, with all that was mapped there since.

    Raises:
        OSError: it is not there.
    """
    _check(_libc.munmap(address, size))


Region = tuple[int, int, int]
"""A row of pages: the address of the first byte, that after the last, and what the kernel says of them."""


class Pagemap:
    """Tells which pages a process has of its own. Made while the process may open files.

    Raises:
        OSError: this system has no such thing.
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError("there is no pagemap")
        self._file = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def find_own(self, start: int, end: int, most_pages: int) -> list[Region] | None:
        """Returns where memory that was mapped from a file, or from nothing, was written to.

        Returns:
            None if there are more pages than that, or very many regions.

        Raises:
            OSError: the kernel cannot tell.
        """
        regions = ctypes.create_string_buffer(_REGION.size * _MOST_REGIONS)
        request = ctypes.create_string_buffer(
            _SCAN.pack(
                *(_SCAN.size, 0, start, end, 0, ctypes.addressof(regions), _MOST_REGIONS, most_pages),
                # Those that are not of a file, and are in memory or swapped out.
                *(_PAGE_IS_FILE, _PAGE_IS_FILE, _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED, 0),
            ),
            _SCAN.size,
        )
        count = _libc.ioctl(self._file, _PAGEMAP_SCAN, request)
        if count < 0:
            raise _last_error()
        if _SCAN.unpack(request)[_WALK_END] != end:
            return None
        return list(_REGION.iter_unpack(memoryview(regions)[: count * _REGION.size]))


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
