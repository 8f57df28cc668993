"""Where `rlm serve` keeps completions and contexts if it is not told."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlm_server.settings import Settings

_log = logging.getLogger(__name__)


def with_data_dir(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Returns the settings with a data directory: their own, or the user's if that can be written.

    A directory that the settings name is not tried here: if it cannot be used, the server does not start.
    """
    if settings.data_dir is not None:
        return settings
    directory = default_data_dir(environment)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_writable = os.access(directory, os.W_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        _log.warning("%s cannot be written, so completions do not outlive this server: give --data-dir", directory)
        return settings
    return dataclasses.replace(settings, data_dir=directory)


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """Returns `rlm` in the directory of the user's data."""
    data_home = environment.get("XDG_DATA_HOME")
    return (Path(data_home) if data_home else Path.home() / ".local" / "share") / "rlm"
