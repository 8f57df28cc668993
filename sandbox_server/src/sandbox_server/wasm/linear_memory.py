"""One linear memory: mapped from the image's file, grown, and put back to where it began when its guest is gone."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_server.wasm import pages
from sandbox_server.wasm.fuel_page import FUEL_MEMORY_BYTES, FuelPage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_server.wasm.allowance import MemoryAllowance
    from sandbox_server.wasm.open_image import OpenImage


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
