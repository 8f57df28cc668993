"""The configuration of a command: its options and the process's environment, read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rlm_server.configuration import Configuration, load
from rlm_server.configuration.flags import FLAGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def microdollars(amount: float | None) -> int | None:
    """Returns an amount in US dollars in millionths of one."""
    return None if amount is None else round(amount * 1_000_000)


def read_configuration(
    config_file: Path | None, assignments: Sequence[str] | None, flags: Mapping[str, Any]
) -> Configuration:
    """Reads the configuration.

    Args:
        config_file: `--config`.
        assignments: `--set`.
        flags: values of other flags by their names; None means not given.

    Raises:
        SettingsError: the file cannot be read, or there are settings that do not exist.
    """
    return load(
        config_file=config_file,
        environment=os.environ,
        assignments=assignments or (),
        flags={flag: (FLAGS[flag], value) for flag, value in flags.items()},
    )
