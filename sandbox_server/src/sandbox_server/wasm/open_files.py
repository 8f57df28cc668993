"""What a guest has open of its files, by the numbers that it knows them by."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox_server.wasm.capi import TrapError
from sandbox_server.wasm.scratch_nodes import Directory, File, FileError

if TYPE_CHECKING:
    from sandbox_server.wasm.scratch import Scratch

MAX_OPEN = 1024
"""How many descriptors, streams and listings a guest may have open at once."""

_FIRST_NUMBER = 16
"""Smaller numbers are the standard streams'."""


@dataclass
class Descriptor:
    """A node that is open.

    Attributes:
        node: what it leads to.
        reads: whether it may be read.
        writes: whether it may be written to.
        position: where its streams are in the file. The guest's C library has one position for both of them too.
    """

    node: File | Directory
    reads: bool
    writes: bool
    position: int = 0


@dataclass
class FileStream:
    """A file that is read or written from its descriptor's position on, or written at its end."""

    descriptor: Descriptor
    file: File
    appends: bool = False


@dataclass
class Listing:
    """What is in a directory, as it was when somebody began to read it.

    Attributes:
        directory: the directory.
        entries: what was in it then.
    """

    directory: Directory
    entries: list[File | Directory] = field(default_factory=list)
    _told: int = 0

    def next(self) -> File | Directory | None:
        """Returns the next entry, None after the last."""
        while self._told < len(self.entries):
            self._told += 1
            node = self.entries[self._told - 1]
            if node.parent is self.directory:  # and was not removed meanwhile
                return node
        return None


@dataclass
class OpenFiles:
    """What a guest has open.

    Attributes:
        scratch: its files.
    """

    scratch: Scratch
    _open: dict[int, Descriptor | FileStream | Listing] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(_FIRST_NUMBER))

    def add(self, item: Descriptor | FileStream | Listing) -> int:
        """Opens something; returns its number.

        Raises:
            FileError: too much is open.
        """
        if len(self._open) >= MAX_OPEN:
            raise FileError("insufficient-memory")
        if isinstance(item, Descriptor):
            self.scratch.begin_use(item.node)
        elif isinstance(item, FileStream):
            self.scratch.begin_use(item.file)
        else:
            item.entries = self.scratch.begin_listing(item.directory)
        number = next(self._numbers) & 0x7FFFFFFF
        self._open[number] = item
        return number

    def close(self) -> None:
        """Frees everything, the files too."""
        self._open.clear()
        self.scratch.close()

    def drop(self, number: int) -> None:
        """Closes something."""
        item = self._open.pop(number, None)
        if isinstance(item, Descriptor):
            self.scratch.end_use(item.node)
        elif isinstance(item, FileStream):
            self.scratch.end_use(item.file)
        elif isinstance(item, Listing):
            self.scratch.end_listing(len(item.entries))

    def descriptor(self, number: int) -> Descriptor:
        """Returns a descriptor."""
        item = self._open.get(number)
        if not isinstance(item, Descriptor):
            raise TrapError("there is no such descriptor")
        return item

    def directory(self, number: int) -> Directory:
        """Returns the directory of a descriptor.

        Raises:
            FileError: it is of a file.
        """
        node = self.descriptor(number).node
        if not isinstance(node, Directory):
            raise FileError("not-directory")
        return node

    def file(self, number: int, *, writes: bool) -> File:
        """Returns the file of a descriptor.

        Raises:
            FileError: it is of a directory, or not open for that.
        """
        descriptor = self.descriptor(number)
        if not isinstance(descriptor.node, File):
            raise FileError("is-directory")
        if not (descriptor.writes if writes else descriptor.reads):
            raise FileError("bad-descriptor")
        return descriptor.node

    def stream(self, number: int) -> FileStream | None:
        """Returns a stream of a file; None if the number is another's."""
        item = self._open.get(number)
        return item if isinstance(item, FileStream) else None

    def listing(self, number: int) -> Listing:
        """Returns a listing."""
        item = self._open.get(number)
        if not isinstance(item, Listing):
            raise TrapError("there is no such listing")
        return item
