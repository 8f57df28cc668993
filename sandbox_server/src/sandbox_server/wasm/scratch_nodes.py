"""What a sandbox's tree of files is made of: files and directories."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class FileError(Exception):
    """An operation cannot be done.

    Args:
        code: why, as a case of `error-code` in `wasi:filesystem`.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Node:
    """A file or a directory.

    Attributes:
        number: tells it from others, as an inode's does.
        parent: the directory that it is in; None for the root, and for what was deleted.
        name: what it is called there.
        accessed_ns, modified_ns: times since the Unix epoch.
    """

    __slots__ = ("__weakref__", "accessed_ns", "modified_ns", "name", "number", "parent")

    def __init__(self, number: int, now_ns: int) -> None:
        self.number = number
        self.parent: Directory | None = None
        self.name = ""
        self.accessed_ns = self.modified_ns = now_ns

    @property
    def path(self) -> str:
        """Where it is, from the root, without a slash at the beginning."""
        names = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/".join(reversed(names))


class File(Node):
    """A file.

    Attributes:
        data: its content.
        users: how many descriptors are open.
    """

    __slots__ = ("data", "users")

    def __init__(self, number: int, now_ns: int) -> None:
        super().__init__(number, now_ns)
        self.data = bytearray()
        self.users = 0


class Null(File):
    """`/dev/null`: takes whatever is written to it, and is always empty."""

    __slots__ = ()


class Directory(Node):
    """A directory."""

    __slots__ = ("entries",)

    def __init__(self, number: int, now_ns: int) -> None:
        super().__init__(number, now_ns)
        self.entries: dict[str, File | Directory] = {}

    @property
    def depth(self) -> int:
        """How many directories it is below the root."""
        depth, node = 0, self.parent
        while node is not None:
            depth, node = depth + 1, node.parent
        return depth


def as_directory(node: File | Directory) -> Directory:
    """Returns a node that is a directory.

    Raises:
        FileError: it is a file.
    """
    if isinstance(node, Directory):
        return node
    raise FileError("not-directory")


def as_file(node: File | Directory) -> File:
    """Returns a node that is a file.

    Raises:
        FileError: it is a directory.
    """
    if isinstance(node, File):
        return node
    raise FileError("is-directory")


def height(node: Directory) -> int:
    """Returns how many directories are below each other in one."""
    height, level = -1, [node]
    while level:
        height += 1
        level = [child for one in level for child in one.entries.values() if isinstance(child, Directory)]
    return height


def directories_of(node: Directory) -> Iterator[Directory]:
    """Yields a directory and all below it."""
    left = [node]
    while left:
        directory = left.pop()
        yield directory
        left += [child for child in directory.entries.values() if isinstance(child, Directory)]


def files_of(node: File | Directory) -> Iterator[File]:
    """Yields a file, or all below a directory."""
    if isinstance(node, File):
        yield node
        return
    for directory in directories_of(node):
        for child in directory.entries.values():
            if isinstance(child, File):
                yield child
