# ruff: noqa: TC004 - what is imported for the type checker is there, as all of this runs in one module
"""How code gives its answer, and what is reported of each block. See `prelude.py`."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm_server.engine.repl.in_sandbox.changes import _changed_inputs
    from rlm_server.engine.repl.in_sandbox.errors import SubcallError, UnknownVariableError
    from rlm_server.engine.repl.in_sandbox.prelude import (
        _MAX_LISTED_VARIABLES,
        _NO_VALUES,
        StopCell,
        _moved,
        _restore_names,
        _typed,
        _user_variables,
        _value_names,
        answer,
        variables,
    )
    from rlm_server.engine.repl.in_sandbox.subcalls import Subcall, _begun, _refusals

_MAX_ANSWER_CHARS = 1_000_000

_CONTAINERS = (
    *(set, frozenset, range, collections.deque),
    *(collections.abc.KeysView, collections.abc.ValuesView, collections.abc.ItemsView),
)

_final: list[dict[str, str]] = []


def FINAL(value: object) -> None:  # noqa: N802 - the name that models were taught
    """Gives the answer and ends the block."""
    if isinstance(value, dict) and value.keys() == {"content", "ready"}:  # the dict `answer`
        value = value["content"]
    given = _as_answer(value)
    if not given["text"].strip():
        raise ValueError("the answer is empty")
    if len(given["text"]) > _MAX_ANSWER_CHARS:
        raise ValueError(
            f"the answer has {len(given['text']):,} characters; at most {_MAX_ANSWER_CHARS:,} can be given"
        )
    if not _final:
        _final.append(given)
    raise StopCell


def FINAL_VAR(name_or_value: object) -> None:  # noqa: N802 - the name that models were taught
    """Gives the value of a variable as the answer and ends the block."""
    if isinstance(name_or_value, str):
        name = name_or_value.strip().strip("'\"")
        if name in variables:
            FINAL(variables[name])
        # `FINAL_VAR(result)` instead of `FINAL_VAR("result")`: what arrives is a variable's value.
        is_value = any(value is name_or_value for value in variables.values())
        if not is_value and name.endswith("]") and name.partition("[")[0] in variables:
            FINAL(eval(name, {}, variables))  # noqa: S307 - `FINAL_VAR("results[0]")`, by code that may run anything
        if name.isidentifier() and not is_value:
            known = ", ".join(list(map(str, _user_variables()))[:_MAX_LISTED_VARIABLES]) or "none"
            raise UnknownVariableError(f"there is no variable {name!r}; there are: {known}. FINAL(...) gives a value")
    FINAL(name_or_value)


def after_cell() -> dict[str, Any]:
    """Reports to the engine.

    Returns:
        A dict with those of the keys that apply: `final` and `answer`, the answer that FINAL or the dict `answer` gave,
        each a dict with `text` and `form` (`text`, or `json` for what was no text and must match a schema); `draft`,
        the text of an answer that is not declared final; `problem`, why an answer was not taken; `names`, the variables
        that hold values; `moved`, the new names of variables that were in the way of inputs, by the old ones;
        `restored`, the names of the REPL that code had rebound; `changed`, the inputs that it
        changed in place.
    """
    for call in list(_begun):
        call.end_with_block()
    _begun.clear()
    _refusals[0] = 0
    report: dict[str, Any] = {"names": _value_names()}
    if _moved:
        report["moved"] = dict(_moved)
        _moved.clear()
    restored = _restore_names()
    if restored:
        report["restored"] = restored
    changed = _changed_inputs()
    if changed:
        report["changed"] = changed
    current = variables.get("answer")
    if isinstance(current, dict) and current is not answer:
        answer.update((key, current[key]) for key in ("content", "ready") if key in current)
    is_ready = bool(answer.get("ready"))
    # A flag that stays would end a later turn, whatever that turn finds.
    answer["ready"] = False
    given = {"text": "", "form": "text"}
    try:
        if answer.get("content") is not None:
            given = _as_answer(answer["content"])
    except Exception as error:  # noqa: BLE001 - whatever the user's value raises
        if is_ready:
            report["problem"] = f'answer["content"] cannot be given: {type(error).__name__}: {error}'
            is_ready = False
    if is_ready:
        if not given["text"].strip():
            report["problem"] = 'answer["ready"] is set but answer["content"] is empty'
        elif len(given["text"]) > _MAX_ANSWER_CHARS:
            report["problem"] = f"it has {len(given['text']):,} characters; at most {_MAX_ANSWER_CHARS:,} can be given"
        else:
            report["answer"] = given
    if _final:
        report["final"] = _final.pop()
    elif given["text"] and "answer" not in report:
        report["draft"] = given["text"][:_MAX_ANSWER_CHARS]
    return report


def _as_answer(value: object) -> dict[str, str]:
    if not _typed or isinstance(value, (str, *_NO_VALUES)):
        return {"text": _render(value), "form": "text"}
    return {"text": json.dumps(value, ensure_ascii=False, default=_plain), "form": "json"}


def _render(value: object) -> str:
    """Returns text as it is, bytes as UTF-8, None as nothing, containers as JSON, anything else as str() does.

    Raises:
        TypeError: it is a function, a generator or the like, whose text says nothing.
    """
    if isinstance(value, str):
        return str(value)
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, _NO_VALUES):
        raise TypeError(f"this is a {type(value).__name__}, not a value; give what it returns or holds, as list(...)")
    if isinstance(value, SubcallError):
        raise value  # also where it was raised before, and would give its text
    if isinstance(value, Subcall):
        raise TypeError("this is a sub-call that has begun, not its reply; await it, or call its result()")
    if isinstance(value, (dict, list, tuple, *_CONTAINERS)):
        try:
            return json.dumps(value, ensure_ascii=False, default=_plain)
        except ValueError:  # a cycle
            return repr(value)
        except TypeError as error:
            if not str(error).startswith("keys must be"):
                raise
            return repr(value)
    return str(value)


def _plain(value: Any) -> object:
    """Returns something that JSON can express for a value that it cannot."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, _CONTAINERS):
        return list(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, enum.Enum):
        return value.value
    for method in ("tolist", "isoformat"):  # arrays and numbers of numpy and the like; dates and times
        if callable(getattr(value, method, None)):
            return getattr(value, method)()
    return _render(value)
