"""The layers put together."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydantic

from rlm_server.configuration import layers, schema
from rlm_server.configuration.layers import Layer, Value
from rlm_server.masking import without_secrets
from rlm_server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rlm_server.configuration.schema import Path

SETTINGS_TABLE = schema.table_of(Settings)
"""The settings that there are."""

DEFAULT = "default"
"""Origin of what nobody set."""

_KINDS = {"tuple_type": 'a list, as ["one", "two"]', "dict_type": "a table, as { name = 1 }"}
"""What pydantic calls otherwise."""

_ONE_OF = ({"api_key", "api_key_file"},)
"""Settings of one table that take each other's place: the one of the later layer counts."""


@dataclass(frozen=True)
class Configuration:
    """Settings with their origins.

    Args:
        values: by their place; what nobody set has its default, if it has one.
    """

    values: Mapping[Path, Value]

    def value(self, name: str) -> Any:
        """Returns a setting as it was given, or its default; None if it has neither."""
        found = self.values.get(tuple(name.split(".")))
        return found.value if found else None

    def names(self, table: str) -> list[str]:
        """Returns the names of the tables in a table of tables, in their order."""
        return list(dict.fromkeys(path[1] for path in self.values if path[0] == table and len(path) > 1))

    def is_set(self, name: str) -> bool:
        """Whether somebody set a setting."""
        found = self.values.get(tuple(name.split(".")))
        return found is not None and found.origin != DEFAULT

    def origin(self, path: Path) -> str:
        """Returns where a setting comes from; of a table, or of a part of a value, where any of it does."""
        while path:
            for place, value in self.values.items():
                if place[: len(path)] == path and value.origin != DEFAULT:
                    return value.origin
            path = path[:-1]
        return DEFAULT

    def with_values(self, values: Mapping[str, Any], origin: str) -> Configuration:
        """Returns a configuration with other values of some settings; None makes them unset."""
        changes = {tuple(name.split(".")): Value(value, origin) for name, value in values.items()}
        return Configuration({**self.values, **changes})

    def settings(self) -> Settings:
        """Returns the settings.

        Raises:
            SettingsError: they cannot work; the message says which and where they come from.
        """
        nested: dict[str, Any] = {}
        for path, value in self.values.items():
            table = nested
            for name in path[:-1]:
                table = table.setdefault(name, {})
            table[path[-1]] = value.value
        try:
            return Settings(**nested)
        except pydantic.ValidationError as error:
            raise SettingsError("\n".join(self._explain(one) for one in error.errors())) from error

    def _explain(self, error: Mapping[str, Any]) -> str:
        path = tuple(str(part) for part in error["loc"])
        if error["type"] in _KINDS:
            return f"{schema.dotted(path)} ({self.origin(path)}) must be {_KINDS[error['type']]}"
        # A table is not shown: there may be a key in it.
        is_shown = not self._is_secret(path) and isinstance(error["input"], str | int | float)
        given = f" is {without_secrets(str(error['input']))[:100]!r}" if is_shown and error["type"] != "missing" else ""
        message = str(error["msg"]).removeprefix("Value error, ")
        return f"{schema.dotted(path)}{given} ({self.origin(path)}): {message}"

    def _is_secret(self, path: Path) -> bool:
        """Tells whether a place is a secret, or within one."""
        nodes = (schema.find(SETTINGS_TABLE, path[: count + 1]) for count in range(len(path)))
        return any(isinstance(node, schema.Leaf) and node.secret for node in nodes)


def load(
    *,
    config_file: pathlib.Path | None = None,
    environment: Mapping[str, str],
    assignments: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
) -> Configuration:
    """Puts the layers together: defaults, file, environment, `--set`, flags, the later over the earlier.

    Args:
        config_file: the file; None takes the one that `$RLM_CONFIG` names, or else `rlm/rlm.toml` in
            `$XDG_CONFIG_HOME` (by default `~/.config`) if there is one.
        environment: the variables.
        assignments: texts as `default_limits.max_depth=2`.
        flags: setting and value of each flag; None means that it was not given.

    Raises:
        SettingsError: the file cannot be read, or there are settings that do not exist.
    """
    file = config_file or default_file(environment)
    merged = _merge(
        [
            defaults(),
            layers.from_openai_variables(SETTINGS_TABLE, environment),
            *([layers.from_file(SETTINGS_TABLE, file)] if file else []),
            layers.from_environment(SETTINGS_TABLE, environment),
            layers.from_assignments(SETTINGS_TABLE, assignments),
            layers.from_flags(SETTINGS_TABLE, flags or {}),
        ]
    )
    return Configuration(merged)


def default_file(environment: Mapping[str, str]) -> pathlib.Path | None:
    """Returns the configuration file that is read unless another is named, or None if there is none.

    A file in the working directory is not read by itself: it could send keys anywhere, and directories come from
    anywhere.
    """
    named = environment.get(layers.CONFIG_VARIABLE)
    if named is not None:
        return pathlib.Path(named) if named else None
    base = environment.get("XDG_CONFIG_HOME") or (f"{environment['HOME']}/.config" if "HOME" in environment else "")
    file = pathlib.Path(base, "rlm", "rlm.toml") if base else None
    try:
        return file if file is not None and file.is_file() else None
    except PermissionError:  # a home directory that is another user's
        return None


def defaults() -> Layer:
    """Returns the layer of defaults. What has none is not in it."""
    layer = Layer(SETTINGS_TABLE)
    settings = Settings(default_model="-")
    for path in schema.paths(SETTINGS_TABLE, {}):
        value: Any = settings
        for name in path:
            value = getattr(value, name)
        if path != ("default_model",):
            layer.values[path] = Value(value, DEFAULT)
    return layer


def _merge(stack: Iterable[Layer]) -> dict[Path, Value]:
    """Puts layers on each other.

    Raises:
        SettingsError: a layer has problems; the message has all of them.
    """
    merged: dict[Path, Value] = {}
    problems: list[str] = []
    for layer in stack:
        problems += layer.problems
        for path in layer.values:
            for group in _ONE_OF:
                if path[-1] in group and layer.values[path].origin != DEFAULT:
                    for other in group - {path[-1]}:
                        place = (*path[:-1], other)
                        if place in merged and place not in layer.values:
                            merged[place] = Value(None, DEFAULT)
        merged |= layer.values
    if problems:
        raise SettingsError("\n".join(problems))
    return merged
