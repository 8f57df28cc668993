"""The layers that settings come from: a file, the environment, assignments on the command line, flags.

Each becomes a `Layer`: values by their place, each with its origin for people.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlm_server.configuration.schema import Leaf, NamedTables, Table, find, nearest
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Mapping

    from rlm_server.configuration.schema import Path

PREFIX = "RLM_"
"""What the names of environment variables begin with; `__` stands for the dot of a nested setting."""

CONFIG_VARIABLE = "RLM_CONFIG"
"""Variable that names the configuration file."""

_OTHERS_PREFIX = "RLM_SANDBOX_"
_SERVICE_LINK = re.compile(r"RLM_\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""Variables that Kubernetes sets for services whose names begin with `rlm-`."""


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
            self._unknown(path, origin)
        elif isinstance(node, Leaf):
            self.values[path] = Value(value, origin)
        elif isinstance(value, dict):
            for name, one in value.items():
                self.add((*path, name), one, origin)
        else:
            kind = "a table of tables" if isinstance(node, NamedTables) else "a table"
            self.problems.append(f"{'.'.join(path)} ({origin}) must be {kind}")

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

    def _unknown(self, path: Path, origin: str) -> None:
        meant = nearest(self.table, path)
        hint = f"; did you mean {meant}?" if meant else ""
        self.problems.append(f"there is no setting {'.'.join(path)} ({origin}){hint}")


def from_file(table: Table, path: pathlib.Path) -> Layer:
    """Reads a TOML file.

    Raises:
        SettingsError: it cannot be read, or is no TOML.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
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
        is_known = find(table, path) is not None
        if not is_known and (name.startswith(_OTHERS_PREFIX) or _SERVICE_LINK.fullmatch(name)):
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
        layer.add_text(tuple(name.strip().split(".")), text, "--set")
    return layer


def from_flags(table: Table, flags: Mapping[str, tuple[str, Any]]) -> Layer:
    """Takes the flags that were given: their setting and value by their name; None means not given."""
    layer = Layer(table)
    for flag, (setting, value) in flags.items():
        if value is not None and value != []:
            layer.add(tuple(setting.split(".")), value, flag)
    return layer
