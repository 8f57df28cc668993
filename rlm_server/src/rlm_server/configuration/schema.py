"""What settings there are, read off the dataclasses that hold them."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from rlm_server.configuration.flags import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Path: TypeAlias = tuple[str, ...]
"""A setting's place: `("default_limits", "max_depth")`, written `default_limits.max_depth`."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Leaf:
    """One setting.

    Args:
        types: what it can be, without None.
        secret: its value must not be shown.
    """

    types: tuple[Any, ...]
    secret: bool

    @property
    def is_text(self) -> bool:
        """Whether any text is a value as it stands."""
        return not any(_origin(one) in (tuple, dict, bool, int, float) for one in self.types)

    @property
    def is_number(self) -> bool:
        """Whether it is a number and nothing else."""
        return all(one in (int, float) for one in self.types)

    @property
    def is_list_of_texts(self) -> bool:
        """Whether it is a list of texts."""
        return any(_origin(one) is tuple and typing.get_args(one)[0] is str for one in self.types)


@dataclass(frozen=True)
class Table:
    """Settings by name."""

    fields: Mapping[str, Leaf | Table | NamedTables]


@dataclass(frozen=True)
class NamedTables:
    """Any number of tables of one kind, by names that the operator chooses."""

    each: Table


def table_of(settings_class: type[Any]) -> Table:
    """Returns the settings that a dataclass has."""
    hints = typing.get_type_hints(settings_class)
    return Table(
        {
            one.name: _node_of(hints[one.name], secret=not one.repr)
            for one in dataclasses.fields(settings_class)
            if one.init
        }
    )


def find(table: Table, path: Path) -> Leaf | Table | NamedTables | None:
    """Returns what is at a place, or None if there is no such place."""
    node: Leaf | Table | NamedTables | None = table
    for name in path:
        if isinstance(node, NamedTables):
            node = node.each
        elif isinstance(node, Table):
            node = node.fields.get(name)
        else:
            return None
    return node


def dotted(path: Path) -> str:
    """Returns a place as TOML writes it, as `models."gpt-4.1".price`."""
    return ".".join(name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False) for name in path)


def paths(table: Table, names: Mapping[Path, list[str]], prefix: Path = ()) -> Iterator[Path]:
    """Yields the places of all settings, in their order.

    Args:
        table: the settings.
        names: the names that there are in each `NamedTables`, by its place.
        prefix: is put before each.
    """
    for name, node in table.fields.items():
        place = (*prefix, name)
        if isinstance(node, Table):
            yield from paths(node, names, place)
        elif isinstance(node, NamedTables):
            for one in names.get(place, []):
                yield from paths(node.each, names, (*place, one))
        else:
            yield place


def nearest(table: Table, path: Path) -> str:
    """Returns the setting that was probably meant by one that does not exist, or an empty text."""
    known = sorted(".".join(one) for one in paths(table, {}))
    if len(path) == 1 and (meant := FLAGS.get(f"--{path[0].replace('_', '-')}")):
        return meant
    parent = find(table, path[:-1])
    if parent is None and len(path) > 3 and isinstance(table.fields.get(path[0]), NamedTables):
        joined = _joined(path)
        return nearest(table, joined) if find(table, joined) is None else dotted(joined)
    if isinstance(parent, Table) and (close := difflib.get_close_matches(path[-1], parent.fields, n=1)):
        return dotted((*path[:-1], close[0]))
    if longer := [name for name in known if name.startswith(".".join(path))]:
        return longer[0]
    # It may be right but for the table that it belongs to; of several places the first one is meant.
    by_last_name = {name.rpartition(".")[2]: name for name in reversed(known)}
    if close := difflib.get_close_matches(path[-1], by_last_name, n=1, cutoff=0.8):
        return by_last_name[close[0]]
    return next(iter(difflib.get_close_matches(".".join(path), known, n=1)), "")


def _joined(path: Path) -> Path:
    """Returns a place in a table of tables with the dots in the middle as part of the table's name."""
    return (path[0], ".".join(path[1:-1]), path[-1])


def _node_of(annotation: Any, *, secret: bool) -> Leaf | Table | NamedTables:
    choices = typing.get_args(annotation) if _origin(annotation) in (Union, types.UnionType) else (annotation,)
    kinds = tuple(one for one in choices if one is not type(None))
    if len(kinds) == 1 and dataclasses.is_dataclass(kinds[0]):
        return table_of(typing.cast("type[Any]", kinds[0]))
    if len(kinds) == 1 and _origin(kinds[0]) is dict and dataclasses.is_dataclass(typing.get_args(kinds[0])[1]):
        return NamedTables(table_of(typing.get_args(kinds[0])[1]))
    return Leaf(kinds, secret)


def _origin(annotation: Any) -> Any:
    return typing.get_origin(annotation) or annotation
