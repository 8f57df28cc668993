"""What a memory begins with, ready to be mapped into one and to be put back."""

from __future__ import annotations

import ctypes
import logging
import os
from typing import TYPE_CHECKING

from sandbox_server.wasm import pages

if TYPE_CHECKING:
    from sandbox_server.wasm.memory_image import MemoryImage

_log = logging.getLogger(__name__)

KEPT_PAGES = 1024
"""A kept memory has at most so many pages of its own; one that has more begins with none again."""


class OpenImage:
    """The file of an image.

    Args:
        image: the image.

    Raises:
        OSError: it cannot be opened or mapped.
    """

    def __init__(self, image: MemoryImage) -> None:
        self._image = image
        self._file = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
        self._pristine = pages.map_file(self._file, image.file_offset, image.size)
        self._pagemap = _open_pagemap()

    def map_at(self, base: int) -> None:
        """Makes it the content of a memory, in which it is shared until it is written to."""
        image = self._image
        pages.map_file(self._file, image.file_offset, image.size, private_at=base + image.address)

    def restore_written(self, base: int, size: int) -> bool:
        """Gives the pages of a memory that were written to their first content.

        Returns:
            False if it is not known which they are, or they are too many: then nothing was done.
        """
        written = self.find_written(base, size, KEPT_PAGES)
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
            return ctypes.string_at(self._pristine + offset, pages.PAGE_BYTES)
        return bytes(pages.PAGE_BYTES)

    def find_written(self, base: int, size: int, most_pages: int) -> list[pages.Region] | None:
        """Returns the pages that a memory has of its own; None if that is not known, or they are more than that."""
        if self._pagemap is None:
            return None
        try:
            return self._pagemap.find_own(base, base + size, most_pages)
        except OSError as error:
            _log.info("the pages of memories are given back after each sandbox, as PAGEMAP_SCAN fails: %s", error)
            self._pagemap = None
            return None


def _open_pagemap() -> pages.Pagemap | None:
    try:
        return pages.Pagemap()
    except OSError:
        return None
