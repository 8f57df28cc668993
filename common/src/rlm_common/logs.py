"""Logging of the servers' processes."""

from __future__ import annotations

import logging
import sys


def configure_logging(level: str = "INFO") -> None:
    """Sends log records to stderr, one line each.

    Args:
        level: name of the least severe level that is shown, as `INFO`.
    """
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
