"""The layers that settings come from: a file, the environment, assignments on the command line, flags.

Each becomes a `Layer`: values by their place, each with its origin for people.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlm_common.environment import SANDBOX_PREFIX, is_service_link, unknown_sandbox_variables

from rlm_server.configuration.schema import Leaf, NamedTables, Table, dotted, find, nearest
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Mapping

    from rlm_server.configuration.schema import Path

PREFIX = "RLM_"
"""What the names of environment variables begin with; `__` stands for the dot of a nested setting."""

CONFIG_VARIABLE = "RLM_CONFIG"
"""Variable that names the configuration file."""


@dataclass(frozen=True)
class Value:
    """A value, and where it comes from."""

    value: Any
    origin: str


@dataclass
class Layer:
    """Values by their place, and what was wrong with others.

    Args:
        table: the settings that there are.
    """

    table: Table
    values: dict[Path, Value] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, path: Path, value: Any, origin: str) -> None:
        """Takes a value as TOML or JSON has it; a table's values are taken one by one."""
        node = find(self.table, path)
        if node is None:
            self._unknown(path, value, origin)
        elif isinstance(node, Leaf):
            if isinstance(value, bool) and node.is_number:
                self.problems.append(f"{dotted(path)} ({origin}) is {str(value).lower()}, which is no number")
            self.values[path] = Value(value, origin)
        elif isinstance(value, dict):
            for name, one in value.items():
                self.add((*path, name), one, origin)
            if not value and len(path) > 1 and isinstance(find(self.table, path[:-1]), NamedTables):
                self.add((*path, "model"), path[-1], origin)  # an empty profile is one as well
        else:
            kind = "a table of tables" if isinstance(node, NamedTables) else "a table"
            self.problems.append(f"{dotted(path)} ({origin}) must be {kind}")

    def add_text(self, path: Path, text: str, origin: str) -> None:
        """Takes a value that is written as text, as in an environment variable."""
        node = find(self.table, path)
        if isinstance(node, Leaf) and node.is_text:
            self.add(path, text, origin)
            return
        if isinstance(node, Leaf) and node.is_list_of_texts and not text.lstrip().startswith("["):
            self.add(path, text.split(), origin)
            return
        try:
            self.add(path, json.loads(text), origin)
        except ValueError:
            self.add(path, text, origin)

    def _unknown(self, path: Path, value: Any, origin: str) -> None:
        if isinstance(value, dict) and isinstance(find(self.table, path[:-2]), NamedTables):
            meant = dotted((*path[:-2], ".".join(path[-2:])))  # a name with a dot needs quotes
        else:
            meant = nearest(self.table, path)
        hint = f"; did you mean {meant}?" if meant else ""
        self.problems.append(f"there is no setting {dotted(path)} ({origin}){hint}")


def from_file(table: Table, path: pathlib.Path) -> Layer:
    """Reads a TOML file.

    Raises:
        SettingsError: it cannot be read, or is no TOML.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the configuration file {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the configuration file {path} is no TOML: {error}") from error
    layer = Layer(table)
    layer.add((), content, str(path))
    return layer


def from_environment(table: Table, environment: Mapping[str, str]) -> Layer:
    """Reads the variables that begin with `RLM_`; empty ones count as absent."""
    layer = Layer(table)
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or not text or name == CONFIG_VARIABLE:
            continue
        path = tuple(name[len(PREFIX) :].lower().split("__"))
        if find(table, path) is None and (name.startswith(SANDBOX_PREFIX) or is_service_link(name)):
            layer.problems += unknown_sandbox_variables([name])
            continue
        layer.add_text(path, text, name)
    return layer


def from_openai_variables(table: Table, environment: Mapping[str, str]) -> Layer:
    """Reads the variables that programs for OpenAI's interface share."""
    layer = Layer(table)
    for name, setting in (("OPENAI_API_KEY", "api_key"), ("OPENAI_BASE_URL", "base_url")):
        if environment.get(name):
            layer.add((setting,), environment[name], name)
    return layer


def from_assignments(table: Table, assignments: Iterable[str]) -> Layer:
    """Reads texts as `default_limits.max_depth=2`."""
    layer = Layer(table)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            layer.problems.append(f"--set {assignment}: must be NAME=VALUE")
            continue
        path = _path(name.strip())
        if path is None:
            layer.problems.append(f"--set {assignment}: {name.strip()} is no name of a setting")
            continue
        layer.add_text(path, text, "--set")
    return layer


def _path(name: str) -> Path | None:
    """Returns the place that a name means, which may have parts in quotes as in TOML; None if it cannot be read."""
    if '"' not in name and "'" not in name:
        return tuple(name.split("."))
    try:
        node = tomllib.loads(f"{name} = {{}}")
    except tomllib.TOMLDecodeError:
        return None
    path: list[str] = []
    while node:
        part = next(iter(node))
        path.append(part)
        node = node[part]
    return tuple(path)


def from_flags(table: Table, flags: Mapping[str, tuple[str, Any]]) -> Layer:
    """Takes the flags that were given: their setting and value by their name; None means not given."""
    layer = Layer(table)
    for flag, (setting, value) in flags.items():
        if value is not None and value != []:
            layer.add(tuple(setting.split(".")), value, flag)
    return layer
