"""What is told of a session's variables."""

import json
import reprlib
import types

MAX_LISTED = 200
MAX_JSON_BYTES = 1 << 20
_MAX_NAME_CHARS = 1000


def describe(namespace, query, hidden):
    """Answers a query: all variables that are worth listing, or some with their values as JSON.

    Args:
        namespace: the session's variables.
        query: `include_all`, `json_values` (names), `preview_chars`; what else it has is the caller's.
        hidden: name to value of what is not listed while it is still that value.

    Returns:
        What there is to tell of them, and how many are left out.
    """
    names = []
    if query["include_all"]:
        names = [name for name, value in namespace.items() if _worth_listing(name, value, hidden)]
    omitted = names[MAX_LISTED:]
    del names[MAX_LISTED:]
    wanted = query["json_values"]
    names += [name for name in wanted if name not in names]
    told = [_describe_one(name, namespace, query["preview_chars"], name in wanted) for name in names]
    return told, sum(name not in wanted for name in omitted)


def _worth_listing(name, value, hidden):
    # Through `globals()`, code can give the namespace keys of any kind.
    if type(name) is not str or not name.isidentifier() or len(name) > _MAX_NAME_CHARS:
        return False
    if name.startswith("_") or isinstance(value, types.ModuleType):
        return False
    return not (name in hidden and hidden[name] is value)


def _describe_one(name, namespace, preview_chars, with_json):
    if name not in namespace:
        return {"name": name, "type": "", "size": -1, "json_error": f"there is no variable {name!r}"}
    value = namespace[name]
    preview, truncated = _preview(value, preview_chars)
    described = {
        "name": name,
        "type": _type_name(type(value)),
        "size": _size(value),
        "preview": preview,
        "preview_truncated": truncated,
    }
    if with_json:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
            size = len(text.encode())
        except BaseException as error:  # code of the value's own may run here, and raise whatever it likes
            described["json_error"] = f"JSON cannot express it: {_text_of(error)}"
        else:
            if size > MAX_JSON_BYTES:
                described["json_error"] = f"it takes {size} bytes as JSON, over the limit of {MAX_JSON_BYTES}"
            else:
                described["json"] = text
    return described


def _type_name(cls):
    try:
        module, name = str(cls.__module__)[:_MAX_NAME_CHARS], str(cls.__qualname__)[:_MAX_NAME_CHARS]
    except BaseException:  # a metaclass may answer for its classes
        return "?"
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def _text_of(error):
    try:
        return str(error)[:_MAX_NAME_CHARS]
    except BaseException:
        return type(error).__name__


def _size(value):
    try:
        return len(value)
    except BaseException:
        return -1


class _Preview(reprlib.Repr):
    """A `repr` that stops early: the repr of a large value must not cost as much as the value."""

    def __init__(self, chars):
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = chars + 40
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = self.maxdeque = chars // 2 + 2
        self.maxarray = chars // 2 + 2

    def repr_str(self, value, level):
        return repr(value[: self.maxstring])

    def repr_bytes(self, value, level):
        return repr(value[: self.maxstring])

    repr_bytearray = repr_bytes


def _preview(value, chars):
    try:
        text = _Preview(chars).repr(value)
    except BaseException as error:
        text = f"<{type(value).__name__}: repr() raised {type(error).__name__}>"
    text = text.encode("utf-8", "backslashreplace").decode()
    short = isinstance(value, (str, bytes, bytearray)) and len(value) > chars + 40
    return text[:chars], len(text) > chars or short
