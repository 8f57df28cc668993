"""The configuration of a command: its options and the process's environment, read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rlm_server.configuration import Configuration, load
from rlm_server.configuration.flags import FLAGS
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


_REQUEST_FLAGS = ("--model", "--sub-model")
"""Flags that a request can say, too."""


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


def check_flags_for_server(
    server: str | None, config_file: Path | None, assignments: Sequence[str] | None, flags: Mapping[str, Any]
) -> None:
    """Checks that nothing is set here that only the server itself can be told.

    Args:
        server: `--server`; without it there is nothing to check.
        config_file: `--config`.
        assignments: `--set`.
        flags: values of other flags by their names; None means not given.

    Raises:
        SettingsError: something is, which would be without effect.
    """
    given = {"--config": config_file, "--set": assignments, **flags}
    useless = [name for name, value in given.items() if value and name not in _REQUEST_FLAGS]
    if server is not None and useless:
        raise SettingsError(f"{', '.join(useless)} cannot be told to a running server: give it to its `rlm serve`")
