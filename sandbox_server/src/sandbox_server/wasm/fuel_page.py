"""The page from which a guest's code takes its fuel, and by which it is stopped; see `image.metering`."""

from __future__ import annotations

import ctypes
import mmap
import threading

from sandbox_server.wasm import pages

FUEL_MEMORY_BYTES = 65536
"""The size of the second memory, and the most that it may have, which tells it from the first."""

_PLENTY = 2**63 - 1
"""The fuel with which an instance is made."""


class FuelPage:
    """The second memory of a guest, of which only the page with its fuel is there.

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
        """The fuel that is left; negative if a guest has used more than it was given. May be read while it runs."""
        return self._number.value

    @property
    def is_stopped(self) -> bool:
        """Whether the guest is not to run any more."""
        return self._is_stopped

    def set(self, fuel: int) -> None:
        """Sets the fuel. Does nothing if the guest was interrupted."""
        with self._lock:
            if not self._is_stopped:
                self._number.value = fuel

    def stop(self) -> None:
        """Has the guest trap when it uses fuel the next time, which it does all the time."""
        with self._lock:
            self._is_stopped = True
            pages.protect(self.address, pages.PAGE_BYTES, mmap.PROT_READ)

    def reset(self) -> None:
        """Makes it ready for the next guest."""
        pages.protect(self.address, pages.PAGE_BYTES, pages.WRITABLE)
        self._lock = threading.Lock()
        self._is_stopped = False
        self._number.value = _PLENTY
