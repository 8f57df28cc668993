"""The files of a sandbox: a tree in the host's memory, within a quota. Nothing in it leads to a file of the host.

Paths are resolved here, name by name, in dictionaries. Everything counts against the quota: the bytes of files, deleted
ones that are still open too, and for each file and directory a share for its name and the rest of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_server.wasm.scratch_nodes import (
    Directory,
    File,
    FileError,
    Null,
    as_directory,
    as_file,
    directories_of,
    files_of,
    height,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_server.wasm.scratch_nodes import Node

NODE_BYTES = 512
"""What a file or directory counts, apart from its name and content; about what it takes."""

LISTED_NAME_BYTES = 16
"""What each name counts in a listing of a directory that somebody reads."""

MAX_NAME_BYTES = 255
"""How long the name of a file or directory may be, as UTF-8."""
_MAX_NODES = 100_000
"""How many files and directories there may be, whatever the quota: some operations look at all of them."""

_FILLED_AT_ONCE = 1 << 20

_MAX_DEPTH = 64
"""How deep directories may nest, so that no walk and no path is long."""


class Scratch:
    """The tree. The root has the directories `tmp` and `dev`, with `null` in it, which are not listed.

    Args:
        quota_bytes: most that everything may count.
        now_ns: tells the time since the Unix epoch.

    Attributes:
        root: where relative paths begin.
        is_interrupted: tells whether what takes long is to be broken off.
        used_bytes: what everything counts now.
    """

    def __init__(self, quota_bytes: int, now_ns: Callable[[], int]) -> None:
        self._quota_bytes = quota_bytes
        self.now_ns = now_ns
        self.is_interrupted: Callable[[], bool] = lambda: False
        self._next_number = 5
        self._changed: dict[File, None] = {}
        self._node_count = 0
        self.used_bytes = 0
        self.root = Directory(1, 0)
        tmp, self._dev, null = Directory(2, 0), Directory(3, 0), Null(4, 0)
        self._dev.entries["null"] = null
        self._hidden = {"tmp": tmp, "dev": self._dev}
        self._fixed = (self.root, tmp, self._dev, null)
        for node, name, parent in ((tmp, "tmp", self.root), (self._dev, "dev", self.root), (null, "null", self._dev)):
            node.parent, node.name = parent, name

    # What the host does.

    def put(self, path: str, data: bytes) -> None:
        """Makes a file, and the directories that it is in, or gives one that is there a new content.

        Raises:
            FileError: the path leads nowhere, or there is no room.
        """
        directory, names = self.root, _names(path)
        for name in names[:-1]:
            child = self._child(directory, name)
            if child is None:
                child = self.make_directory(directory, name)
            directory = as_directory(child)
        file = self.open(directory, "/".join(names[-1:]), create=True, truncate=True)
        if isinstance(file, Directory):
            raise FileError("is-directory")
        self.write(file, 0, data)

    def get(self, path: str) -> File:
        """Returns a file.

        Raises:
            FileError: there is none.
        """
        node = self.find(self.root, path)
        if isinstance(node, Directory):
            raise FileError("is-directory")
        return node

    def forget_changes(self) -> None:
        """Has `changed_files` begin anew."""
        self._changed.clear()

    def changed_files(self) -> Iterator[File]:
        """Yields the files that were made or changed since then and are still there."""
        return (file for file in self._changed if file.parent is not None)

    def close(self) -> None:
        """Frees everything at once; nodes refer to each other, so that the garbage collector would take its time."""
        self.is_interrupted = lambda: True
        self._changed.clear()
        for start in (self.root, *self._hidden.values()):
            for directory in list(directories_of(start)):
                directory.entries.clear()

    # What the guest does.

    def find(self, start: Directory, path: str) -> File | Directory:
        """Follows a path.

        Raises:
            FileError: it leads nowhere.
        """
        node: File | Directory = start
        for name in _names(path):
            child = self._child(as_directory(node), name)
            if child is None:
                raise FileError("no-entry")
            node = child
        if path.endswith("/"):
            as_directory(node)
        return node

    def open(
        self, start: Directory, path: str, *, create: bool = False, exclusive: bool = False, truncate: bool = False
    ) -> File | Directory:
        """Finds a node, or makes a file.

        Raises:
            FileError: it is not there, or is there with `exclusive`, or there is no room for another.
        """
        try:
            node = self.find(start, path)
        except FileError as error:
            if error.code != "no-entry" or not create:
                raise
            directory, name = self._place(start, path)
            if path.endswith("/"):
                raise FileError("is-directory") from None
            node = File(self._new_number(), self.now_ns())
            self._link(node, directory, name)
            self._changed[node] = None
            return node
        if create and exclusive:
            raise FileError("exist")
        if truncate:
            self.resize(as_file(node), 0)
        return node

    def make_directory(self, start: Directory, path: str) -> Directory:
        """Makes a directory.

        Raises:
            FileError: there is something of that name, or no room.
        """
        directory, name = self._place(start, path)
        if self._child(directory, name) is not None:
            raise FileError("exist")
        if directory.depth >= _MAX_DEPTH:
            raise FileError("name-too-long")
        made = Directory(self._new_number(), self.now_ns())
        self._link(made, directory, name)
        return made

    def remove_directory(self, start: Directory, path: str) -> None:
        """Removes an empty directory.

        Raises:
            FileError: it is none, or not empty, or the root or `tmp`.
        """
        directory = as_directory(self.find(start, path))
        if directory.entries:
            raise FileError("not-empty")
        self._unlink(directory)

    def remove_file(self, start: Directory, path: str) -> None:
        """Removes a file; it lives on as long as it is open.

        Raises:
            FileError: there is no such file.
        """
        self._unlink(as_file(self.find(start, path)))

    def rename(self, start: Directory, path: str, new_start: Directory, new_path: str) -> None:
        """Moves a node, over a file or an empty directory if one is there.

        Raises:
            FileError: it cannot be moved there.
        """
        node = self.find(start, path)
        directory, name = self._place(new_start, new_path)
        if node in self._fixed:
            raise FileError("busy")
        target = self._child(directory, name)
        if target is node:
            return
        longer = max(0, len(name.encode()) - len(node.name.encode()))
        self._charge(longer)  # before anything is done that could not be undone
        self._charge(-longer)
        if isinstance(node, Directory):
            self._check_move(node, directory)
            if target is not None:
                self.remove_directory(directory, name)
        elif target is not None:
            self.remove_file(directory, name)
        self._detach(node)
        self._link(node, directory, name)
        for file in files_of(node):
            self._changed[file] = None

    def read(self, file: File, offset: int, count: int) -> bytes:
        """Returns a part of a file."""
        return bytes(memoryview(file.data)[offset : offset + count])

    def write(self, file: File, offset: int, data: bytes) -> None:
        """Writes into a file; between its end and the offset, zeros come.

        Raises:
            FileError: there is no room.
        """
        if isinstance(file, Null):
            return
        end = offset + len(data)
        if end > len(file.data):
            self._lengthen(file, max(offset, len(file.data)), end)
        file.data[offset:end] = data
        self._touch(file)

    def resize(self, file: File, size: int) -> None:
        """Cuts a file, or lengthens it with zeros.

        Raises:
            FileError: there is no room.
        """
        if isinstance(file, Null):
            return
        if size > len(file.data):
            self._lengthen(file, size, size)
        else:
            self._charge(size - len(file.data))
            del file.data[size:]
        self._touch(file)

    def begin_listing(self, directory: Directory) -> list[File | Directory]:
        """Returns what is in a directory; `end_listing` must follow.

        Raises:
            FileError: there is no room for so many names.
        """
        self._charge(LISTED_NAME_BYTES * len(directory.entries))
        return list(directory.entries.values())

    def end_listing(self, count: int) -> None:
        """Frees a listing of so many names."""
        self._charge(-LISTED_NAME_BYTES * count)

    def begin_use(self, node: Node) -> None:
        """Notes that a descriptor of it is open."""
        if isinstance(node, File):
            node.users += 1

    def end_use(self, node: Node) -> None:
        """Notes that a descriptor of it is closed, and frees what was deleted meanwhile."""
        if isinstance(node, File):
            node.users -= 1
            self._free_if_gone(node)

    def _lengthen(self, file: File, filled_to: int, end: int) -> None:
        """Makes room up to `end`, and fills a file with zeros up to a size."""
        grown = end - len(file.data)
        self._charge(grown)
        while len(file.data) < filled_to:
            # In parts, so that neither this guest's end nor the others wait for a gigabyte of zeros.
            if self.is_interrupted():
                self._charge(len(file.data) - end)
                raise FileError("interrupted")
            file.data += bytes(min(_FILLED_AT_ONCE, filled_to - len(file.data)))

    def _child(self, directory: Directory, name: str) -> File | Directory | None:
        if name == "..":
            return directory.parent or directory
        if directory is self.root and name in self._hidden:
            return self._hidden[name]
        return directory.entries.get(name)

    def _place(self, start: Directory, path: str) -> tuple[Directory, str]:
        """Returns the directory in which something is to be made, and its name there."""
        names = _names(path)
        if not names or names[-1] == "..":
            raise FileError("exist")
        if len(names[-1].encode()) > MAX_NAME_BYTES:
            raise FileError("name-too-long")
        directory = as_directory(self.find(start, "/".join(names[:-1])))
        if directory.parent is None and directory is not self.root:
            raise FileError("no-entry")  # it was removed while it was open
        if directory is self._dev and names[-1] not in directory.entries:
            raise FileError("not-permitted")
        return directory, names[-1]

    def _check_move(self, node: Directory, directory: Directory) -> None:
        ancestor: Directory | None = directory
        while ancestor is not None:
            if ancestor is node:
                raise FileError("invalid")
            ancestor = ancestor.parent
        if directory.depth + 1 + height(node) > _MAX_DEPTH:
            raise FileError("name-too-long")

    def _link(self, node: File | Directory, directory: Directory, name: str) -> None:
        if self._node_count >= _MAX_NODES:
            raise FileError("insufficient-space")
        self._charge(NODE_BYTES + len(name.encode()))
        self._node_count += 1
        node.parent, node.name = directory, name
        directory.entries[name] = node
        directory.modified_ns = self.now_ns()

    def _unlink(self, node: File | Directory) -> None:
        if node in self._fixed:
            raise FileError("busy")
        self._detach(node)
        if isinstance(node, File):
            self._free_if_gone(node)

    def _detach(self, node: File | Directory) -> None:
        directory = node.parent
        if directory is None:
            raise FileError("no-entry")
        del directory.entries[node.name]
        directory.modified_ns = self.now_ns()
        node.parent = None
        self._node_count -= 1
        self._charge(-NODE_BYTES - len(node.name.encode()))

    def _free_if_gone(self, file: File) -> None:
        if file.parent is None and not file.users:
            self._changed.pop(file, None)
            self._charge(-len(file.data))
            file.data = bytearray()

    def _touch(self, file: File) -> None:
        file.modified_ns = self.now_ns()
        self._changed[file] = None

    def _charge(self, count: int) -> None:
        if count > 0 and self.used_bytes + count > self._quota_bytes:
            raise FileError("insufficient-space")
        self.used_bytes += count

    def _new_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]
