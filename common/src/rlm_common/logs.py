"""Logging of the servers' processes."""

from __future__ import annotations

import logging
import sys

_CHATTY = ("httpcore", "httpcore2", "httpx", "httpx2", "openai")
"""Loggers that tell of every request that a model is sent, at INFO."""


def configure_logging(level: str = "INFO") -> None:
    """Sends log records to stderr, one line each.

    Args:
        level: name of the least severe level that is shown, as `INFO`.
    """
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
