# ruff: noqa: TC004 - what is imported for the type checker is there, as all of this runs in one module
"""Sees that code changed an input in place, as `context.append(...)` does. See `prelude.py`.

What can be told cheaply after each block is compared with what it was: the lengths of lists and dicts, and their items,
up to some number of both. Items that are the same objects are not looked into, but for the first lists and dicts among
them, which are watched themselves.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm_server.engine.repl.in_sandbox.prelude import _given

_MAX_LIST_ITEMS = 10_000
"""Of a list with more items its length and about `_SAMPLED_LIST_ITEMS`, spread over it, are compared."""
_SAMPLED_LIST_ITEMS = 1000
_MAX_DICT_ITEMS = 1000
"""Of a dict with more items, which takes longer, its length and the first `_SAMPLED_DICT_ITEMS` are compared."""
_SAMPLED_DICT_ITEMS = 200
_MAX_WATCHED = 64
"""How many lists and dicts of one input are watched: itself, and then those nearest to the top."""
_MAX_WATCHED_ITEMS = 30
"""Of each of them, how many items are looked at for further ones, so that it is not all of one level."""

_watched: dict[str, list[tuple[Any, Any]]] = {}
"""The lists and dicts of each input, with what they held."""


def _watch_inputs() -> None:
    """Takes note of what inputs hold now. Where one holds another, both are told of, by the name of the inner one."""
    seen: set[int] = set()
    _watched.clear()
    for name, value in sorted(_given.items(), key=lambda item: item[0] == "context"):
        _watched[name] = _watch(value, seen)


def _watch(value: Any, seen: set[int]) -> list[tuple[Any, Any]]:
    """Returns the lists and dicts of a value that are not seen yet, breadth first, with what they hold."""
    found = _containers([value], seen)
    for container in found:  # which grows
        if len(found) >= _MAX_WATCHED:
            break
        items = container.values() if type(container) is dict else container
        found += _containers(itertools.islice(items, _MAX_WATCHED_ITEMS), seen)
    return [(container, _held(container)) for container in found[:_MAX_WATCHED]]


def _containers(values: Any, seen: set[int]) -> list[Any]:
    found = [one for one in values if type(one) in (list, dict) and id(one) not in seen]
    seen.update(map(id, found))
    return found


def _held(container: Any) -> Any:
    """Returns what is compared of a list or dict: a copy of it if it is small, else a sample."""
    length = len(container)
    if type(container) is list:
        return container.copy() if length <= _MAX_LIST_ITEMS else (length, container[:: length // _SAMPLED_LIST_ITEMS])
    if length <= _MAX_DICT_ITEMS:
        return container.copy()
    return length, list(itertools.islice(container.items(), _SAMPLED_DICT_ITEMS))


def _changed_inputs() -> list[str]:
    """Returns the names of the inputs that code has changed in place since this was asked before."""
    changed = [name for name, pairs in _watched.items() if not all(itertools.starmap(_holds, pairs))]
    if changed:
        _watch_inputs()
    return changed


def _holds(container: Any, held: Any) -> bool:
    try:
        # Equality of lists and dicts passes over items that are the same objects.
        return bool(held == (container if type(held) is not tuple else _held(container)))
    except Exception:  # noqa: BLE001 - of a value that code has put in
        return False
