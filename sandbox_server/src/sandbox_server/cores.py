"""How many processor cores this process may use: those that it may run on, or what its control groups give it of them.

Source: sched_getaffinity(2); `cpu.max` and `cpu.cfs_quota_us` in the kernel's documentation of control groups.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

from sandbox_server import control_groups


def available_cores(root: Path = Path("/")) -> int:
    """Returns the number of cores, at least 1; part of one counts as one.

    Args:
        root: where `proc` and `sys` are.
    """
    cores = float(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    for version, directory in control_groups.find(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):  # it is not there, or gives all
            if version is control_groups.Version.SECOND:
                quota, period = map(int, (directory / "cpu.max").read_text().split())
            else:
                quota = int((directory / "cpu.cfs_quota_us").read_text())
                period = int((directory / "cpu.cfs_period_us").read_text())
            if quota > 0:
                cores = min(cores, quota / period)
    return max(1, math.ceil(cores))
