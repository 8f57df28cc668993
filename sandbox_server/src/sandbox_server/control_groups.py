"""Where the control groups of this process are. Source: cgroups(7)."""

from __future__ import annotations

import contextlib
import enum
from pathlib import Path, PurePosixPath


class Version(enum.Enum):
    """A version of control groups."""

    FIRST = enum.auto()
    SECOND = enum.auto()


def find(root: Path, controller: str) -> list[tuple[Version, Path]]:
    """Returns the directories of the groups that this process is in, and of those around these, the inner ones first.

    Args:
        root: where `proc` and `sys` are.
        controller: as `memory` or `cpu`.

    Returns:
        Some may not be there: a container need not see the groups of its host, and sees its own as the outermost.
    """
    mounts = {Version.FIRST: root / "sys/fs/cgroup" / controller, Version.SECOND: root / "sys/fs/cgroup"}
    own: list[tuple[Version, PurePosixPath]] = []
    with contextlib.suppress(OSError):  # there are none
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if not controllers:
                own.append((Version.SECOND, PurePosixPath(path)))
            elif controller in controllers.split(","):
                own.append((Version.FIRST, PurePosixPath(path)))
    own += [(version, PurePosixPath("/")) for version in Version]
    found = [
        (version, mounts[version] / str(one).lstrip("/")) for version, path in own for one in (path, *path.parents)
    ]
    return list(dict.fromkeys(found))
