"""What a model is told of a variable before it has looked: type, size, shape, and a short sample."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rlm_server.engine.text import count

if TYPE_CHECKING:
    from rlm_server.engine.images import ImageInfo

IMAGE_TYPE_NAME = "Image"
"""The type of a picture."""

_HEAD_CHARS = 240
_TAIL_CHARS = 120
_VALUE_CHARS = 80
_MAX_SAMPLE_CHARS = 500
_MAX_KEYS = 20
_MAX_TRACKED_OBJECTS = 200_000
"""Objects of a JSON document beyond that are counted, but nothing is kept of them."""
_MAX_PREVIEWED_OBJECTS = 50


_Types: TypeAlias = tuple[tuple[str, ...], tuple[type, ...]]


@dataclass(frozen=True)
class Outline:
    """What a model is told of a variable.

    Args:
        type_name: its Python type, as `str` or `list`.
        size: its size, for people, as `160 characters` or `1,790 dicts, 32,781,560 characters as JSON`.
        details: more lines, with its shape and a sample; may be empty.
        size_chars: number of characters of the text or JSON.
    """

    type_name: str
    size: str
    details: str
    size_chars: int


class TextScan:
    """Follows a text that comes in parts, in bounded memory."""

    def __init__(self) -> None:
        self.size_chars = 0
        """How many characters have come."""
        self._line_breaks = 0
        self._head = ""
        self._tail = ""

    def feed(self, text: str) -> None:
        """Takes the next part."""
        if not text:
            return
        self.size_chars += len(text)
        self._line_breaks += text.count("\n")
        if len(self._head) < _HEAD_CHARS + _TAIL_CHARS:
            self._head += text[: _HEAD_CHARS + _TAIL_CHARS - len(self._head)]
        self._tail = (self._tail + text[-_TAIL_CHARS:])[-_TAIL_CHARS:]

    def outline(self) -> Outline:
        """Returns the outline of a `str` variable with the text that has come."""
        size = count(self.size_chars, "character")
        if self._line_breaks:
            size += f" in {count(self._line_breaks + (self._tail[-1] != chr(10)), 'line')}"
        if self.size_chars <= len(self._head):
            sample = f"all of it: {self._head!r}"
        else:
            sample = f"begins: {self._head[:_HEAD_CHARS]!r}\nends: {self._tail!r}"
        return Outline("str", size, sample, self.size_chars)


def outline_text(text: str) -> Outline:
    """Returns the outline of a text."""
    scan = TextScan()
    scan.feed(text)
    return scan.outline()


def outline_image(image: ImageInfo) -> Outline:
    """Returns the outline of a picture."""
    size = f"{image.media_type}, {image.width:,} x {image.height:,} pixels, {count(image.size_bytes, 'byte')}"
    return Outline(IMAGE_TYPE_NAME, size, "", 0)


def outline_json(text: str) -> Outline:
    """Checks that a text is a JSON document, and returns its outline. It blocks for 10 to 30 ms for each MiB.

    Raises:
        ValueError: it is none; the message says where, or that it is nested too deeply.
    """
    reader = _Reader()
    try:
        value = json.loads(text, object_hook=reader.take)
    except RecursionError:
        raise ValueError("it is not usable JSON: it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except ValueError:
        limit = sys.get_int_max_str_digits()
        raise ValueError(f"a number in it has over {limit:,} digits, which Python does not read; quote it") from None
    size = f"{count(len(text), 'character')} as JSON"
    if isinstance(value, _Object):
        return Outline("dict", f"{count(value.length, 'key')}, {size}", _dict_details(reader), len(text))
    if isinstance(value, list):
        items, details = _list_details(value, reader)
        return Outline("list", f"{items}, {size}", details, len(text))
    if isinstance(value, str):
        inner = outline_text(value)
        return Outline("str", inner.size, inner.details, len(text))
    return Outline(type(value).__name__, size, f"value: {text.strip()[:_VALUE_CHARS]}", len(text))


class _Object:
    """A JSON object that was read: what it was like, without its content."""

    __slots__ = ("chars", "length", "preview", "types")

    def __init__(self, length: int, chars: int, types: _Types | None, preview: str) -> None:
        self.length = length
        """Number of keys."""
        self.chars = chars
        """Characters of all texts in it, at any depth."""
        self.types = types
        """Its keys, and the classes of their values, or None for one of very many objects."""
        self.preview = preview
        """A rendering, of the first objects only."""


class _Reader:
    """Makes `_Object`s of the objects of a JSON document while it is read, so that it never is in memory as a whole.

    Objects are read from the inside out, so whether one lies at the top is known only in the end.
    """

    def __init__(self) -> None:
        self.object_count = 0
        self.last: dict[str, Any] = {}
        """The object that was read last: the outermost one if the document is an object or ends in one."""
        self._known: dict[_Types, _Types] = {}
        self._alike: dict[tuple[int, int], _Object] = {}

    def take(self, value: dict[str, Any]) -> _Object:
        self.object_count += 1
        self.last = value
        chars = 0
        for one in value.values():
            kind = type(one)
            if kind is str:
                chars += len(one)
            elif kind is _Object:
                chars += one.chars
            elif kind is list:
                chars += _chars(one)
        if self.object_count > _MAX_TRACKED_OBJECTS:
            size = (len(value), chars)
            return self._alike.get(size) or self._alike.setdefault(size, _Object(*size, None, ""))
        types = (tuple(value), tuple(map(type, value.values())))
        preview = _render(value) if self.object_count <= _MAX_PREVIEWED_OBJECTS else ""
        return _Object(len(value), chars, self._known.setdefault(types, types), preview)


_NAMES: dict[type, str] = {_Object: "dict", type(None): "None"}


def _dict_details(reader: _Reader) -> str:
    """Returns a line for each key of the document, which is an object."""
    items = list(reader.last.items())
    lines = [f"{_short(key)}: {_describe(value)}" for key, value in items[:_MAX_KEYS]]
    if len(items) > _MAX_KEYS:
        lines.append(f"and {count(len(items) - _MAX_KEYS, 'more key')}")
    return "\n".join(lines)


def _list_details(values: list[Any], reader: _Reader) -> tuple[str, str]:
    """Returns how many items of which types there are, and lines on their keys and sizes, with the first and last."""
    types = Counter(map(_type_name, values))
    if not values:
        return "no items", ""
    if len(types) == 1:
        items = count(len(values), next(iter(types)))
    else:
        items = (
            f"{count(len(values), 'item')} ({', '.join(f'{number:,} {name}' for name, number in types.most_common())})"
        )
    lines = []
    objects = [value for value in values if isinstance(value, _Object) and value.types is not None]
    if objects:
        lines.append(f"keys: {_keys(objects)}")
        if len(objects) < types["dict"]:
            lines[-1] += f" (of the first {len(objects):,} only)"
    sizes = [_chars(value) for value in values]
    if max(sizes) and len(values) > 1:
        largest, smallest = sizes.index(max(sizes)), sizes.index(min(sizes))
        lines.append(
            f"text in each: {count(max(sizes), 'character')}"
            if largest == smallest
            else f"text in each: {min(sizes):,} ([{smallest}]) to {max(sizes):,} ([{largest}]) characters, "
            f"{sum(sizes) // len(sizes):,} on average"
        )
    first = values[0].preview if isinstance(values[0], _Object) else _value(values[0])
    if first:
        lines.append(f"[0]: {first}")
    if len(values) > 1:
        last = _render(reader.last) if isinstance(values[-1], _Object) else _value(values[-1])
        lines.append(f"[{len(values) - 1}]: {last}")
    return items, "\n".join(lines)


def _keys(objects: list[_Object]) -> str:
    """Returns the keys that dicts have, with the types of their values and how many have them, if not all do."""
    alike = Counter(one.types for one in objects if one.types is not None)
    types: dict[str, set[str]] = {}
    numbers: Counter[str] = Counter()
    for (keys, classes), number in alike.items():
        for key, one in zip(keys, classes, strict=True):
            types.setdefault(key, set()).add(_NAMES.get(one, one.__name__))
            numbers[key] += number
    shown = []
    for key in itertools.islice(types, _MAX_KEYS):
        share = "" if numbers[key] == len(objects) else f", in {numbers[key]:,} of them"
        shown.append(f"{_short(key)} ({' or '.join(sorted(types[key]))}{share})")
    if len(types) > _MAX_KEYS:
        shown.append(f"and {len(types) - _MAX_KEYS:,} more")
    return ", ".join(shown)


def _chars(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, _Object):
        return value.chars
    return sum(map(_chars, value)) if isinstance(value, list) else 0


def _type_name(value: object) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _describe(value: object) -> str:
    """Returns type, size and a sample of a value."""
    if isinstance(value, str):
        return f"str, {count(len(value), 'character')}: {_short(value)}"
    if isinstance(value, list):
        types = Counter(map(_type_name, value))
        return f"list, {count(len(value), next(iter(types)) if len(types) == 1 else 'item')}"
    return f"dict, {count(value.length, 'key')}" if isinstance(value, _Object) else _value(value)


def _render(value: dict[str, Any]) -> str:
    """Returns a dict with long values cut."""
    items = list(value.items())
    shown = ", ".join(f"{_short(key)}: {_value(one)}" for key, one in items[:_MAX_KEYS])
    text = f"{{{shown}{', ...' if len(items) > _MAX_KEYS else ''}}}"
    return text if len(text) <= _MAX_SAMPLE_CHARS else f"{text[:_MAX_SAMPLE_CHARS]}..."


def _value(value: object) -> str:
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, list):
        return f"[{count(len(value), 'item')}]"
    return f"{{{count(value.length, 'key')}}}" if isinstance(value, _Object) else repr(value)[:_VALUE_CHARS]


def _short(text: str) -> str:
    return repr(text) if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]!r}..."
