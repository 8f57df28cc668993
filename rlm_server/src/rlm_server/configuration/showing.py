"""The effective settings as people read them: TOML, each line with its origin."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

from rlm_server.configuration import schema
from rlm_server.configuration.configuration import SETTINGS_TABLE, Configuration
from rlm_server.configuration.layers import Value
from rlm_server.masking import MASK, masked
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rlm_server.configuration.schema import Path


def lines(configuration: Configuration) -> Iterator[str]:
    """Yields a line for each setting: its name and value as TOML, and where it comes from as a comment.

    What has no value is a comment as a whole, since TOML has nothing for it.
    """
    for path, value, origin in entries(configuration):
        name = schema.dotted(path)
        if value is None:
            yield f"# {name} is not set  # {origin}"
        else:
            yield f"{name} = {_toml(value)}  # {origin}"


def entries(configuration: Configuration) -> Iterator[tuple[Path, Any, str]]:
    """Yields place, value and origin of each setting, secrets masked."""
    names: dict[Path, list[str]] = {}
    for path in configuration.values:
        for length in range(1, len(path)):
            node = schema.find(SETTINGS_TABLE, path[:length])
            known = names.setdefault(path[:length], [])
            if isinstance(node, schema.NamedTables) and path[length] not in known:
                known.append(path[length])
    try:
        settings: Any = configuration.settings()
    except SettingsError:
        settings = None
    for path in schema.paths(SETTINGS_TABLE, names):
        found = configuration.values.get(path)
        if found is None:
            continue
        node = schema.find(SETTINGS_TABLE, path)
        is_secret = isinstance(node, schema.Leaf) and node.secret
        effective = _effective(settings, path)
        is_read = isinstance(found.value, str) and isinstance(effective, int | float | pathlib.Path)
        if is_read or isinstance(effective, bool):  # it may be `no` in the environment
            found = Value(effective, found.origin)
        yield path, MASK if is_secret and found.value is not None else masked(found.value), found.origin


def _effective(settings: Any, path: Path) -> Any:
    for name in path:
        settings = settings.get(name) if isinstance(settings, dict) else getattr(settings, name, None)
    return settings


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{schema.dotted((str(key),))} = {_toml(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, float):
        return repr(value)  # which writes what is infinite as TOML does
    if isinstance(value, bool | int):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", r"\u007f")
