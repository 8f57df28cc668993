"""Python's garbage collector in a process that serves."""

from __future__ import annotations

import gc

_COLLECTED_AFTER = 10_000
"""The collector looks for circles when so many objects were made since the last time; Python's own choice is 700."""


def collect_seldom() -> None:
    """Has the collector pass over all that was made so far, and come seldom.

    To be called when a process is about to begin to serve. What it made until then lives as long as it does, and a
    request makes so many short-lived objects that the collector would otherwise come for every other one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER)
