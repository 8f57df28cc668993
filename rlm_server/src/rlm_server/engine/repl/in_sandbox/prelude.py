# ruff: noqa: F821, F822, TC004 - what is declared or imported for the type checker is there when this runs
"""The vocabulary of the REPL: what it has, and how it is set up.

This source is sent to sandboxes and runs there, not in the server, in one module with `errors.py`, `changes.py`,
`images.py`, `subcalls.py` and `answers.py`, which follow it. Its environment is that of `Prelude` in
`proto/sandbox/v1/execute_service.proto`: the names declared below are given, the names in `__all__` become
variables of the session. `_configure` is called by a line that the engine appends.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlm_server.engine.repl.in_sandbox.changes import _watch_inputs
    from rlm_server.engine.repl.in_sandbox.images import _set_images
    from rlm_server.engine.repl.in_sandbox.subcalls import _in_order

variables: dict[str, Any]
host_call: Callable[..., Any]
host_submit: Callable[..., Any]
HostCallError: Any
StopCell: type[BaseException]

__all__ = [
    "FINAL",
    "FINAL_VAR",
    "SHOW_VARS",
    "Image",
    "SubcallError",
    "ToolError",
    "_begin_completion",
    "_make_room",
    "answer",
    "budget",
    "cancel_subcall",
    "llm_query",
    "llm_query_async",
    "llm_query_batched",
    "llm_query_batched_async",
    "rlm_query",
    "rlm_query_async",
    "rlm_query_batched",
    "rlm_query_batched_async",
]

_MAX_LISTED_VARIABLES = 200

_NO_VALUES = (
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type),
    *(types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, map, filter, zip),
)
_MISSING = object()

answer: dict[str, Any] = {"content": "", "ready": False}
_given: dict[str, Any] = {}
_typed: list[str] = []
_moved: dict[str, str] = {}
"""Variables of the code's that had the names of inputs to come, with the names that they have now."""
_has_alias: list[bool] = []
"""Is not empty once it is decided whether `history` is another name of `history_0`."""


def budget() -> dict[str, Any]:
    """Returns what is left: a dict of numbers, None where there is no limit."""
    return dict(host_call("budget"))


def SHOW_VARS() -> str:  # noqa: N802 - the name that models were taught
    """Returns the names of your variables with their types."""
    found = _user_variables()
    if not found:
        return "No variables yet."
    lines = [f"{name}: {type(value).__name__}" for name, value in list(found.items())[:_MAX_LISTED_VARIABLES]]
    if len(found) > _MAX_LISTED_VARIABLES:
        lines.append(f"... and {len(found) - _MAX_LISTED_VARIABLES} more")
    return "\n".join(lines)


def _user_variables() -> dict[str, Any]:
    return {
        name: value
        for name, value in variables.items()
        if not str(name).startswith("_") and name not in __all__ and not isinstance(value, types.ModuleType)
    }


def _value_names() -> list[str]:
    """Returns the names of the user's variables that hold what may be an answer."""
    return [
        name
        for name, value in list(_user_variables().items())
        if name not in _given and not isinstance(value, _NO_VALUES)
    ][:_MAX_LISTED_VARIABLES]


def _restore_names() -> list[str]:
    """Puts back the inputs that code has rebound, and returns the names of the REPL that it had.

    What was in the place of an input, or is no dict in that of `answer`, gets the name NAME_new. Functions are put back
    by the sandbox.
    """
    provided = globals()
    functions = [name for name in __all__ if name != "answer" and not name.startswith("_")]
    restored = [name for name in functions if variables.get(name, _MISSING) is not provided[name]]
    given = variables.get("answer", _MISSING)
    if not isinstance(given, dict):
        if given is not _MISSING:
            variables["answer_new"] = given
        restored.append("answer")
    for name, value in _given.items():
        if variables.get(name, _MISSING) is not value:
            if name in variables:
                variables[f"{name}_new"] = variables[name]
            variables[name] = value
            restored.append(name)
    return restored


def _make_room(names: list[str]) -> None:
    """Gives variables of the code's that have the names of inputs to come the name NAME_old. The engine calls this."""
    for name in names:
        if name in variables:
            new_name = f"{name}_old"
            while new_name in variables:
                new_name += "_old"
            variables[new_name] = variables.pop(name)
            _moved[name] = new_name


def _begin_completion(
    context_names: list[str], images: dict[str, tuple[str, int, int]], *, typed: bool = False
) -> None:
    """Makes a REPL that has been kept ready for the next completion. The engine calls this, before it runs code."""
    answer.update(content="", ready=False)
    if not _has_alias:
        _alias_history()
    _set_images(images, [])
    _typed[:] = ["json"] if typed else []
    _given.update((name, variables[name]) for name in context_names)
    for module in globals().get("_tool_modules", {}).values():
        for name in context_names:
            module.__dict__.setdefault(name, variables[name])
    _watch_inputs()


def _alias_history() -> None:
    """Gives `history_0` the name `history`, too, unless code has a variable of that name.

    What a compaction has left there is no variable of the code's: it is the beginning of the same messages.
    """
    messages, known = variables["history_0"], variables.get("history", _MISSING)
    if known is _MISSING or _begins_with(messages, known):
        variables["history"] = messages
    _has_alias.append(True)


def _begins_with(messages: list[Any], known: Any) -> bool:
    try:
        return type(known) is list and 0 < len(known) <= len(messages) and bool(messages[: len(known)] == known)
    except Exception:  # noqa: BLE001 - of a value that code has put in
        return False


def _configure(context_names: list[str], *, typed: bool = False, in_order: bool = False) -> None:
    if in_order:
        _in_order.append(True)
    if typed:
        _typed.append("json")
    if context_names != ["context"]:
        parts = {name: variables[name] for name in context_names}
        variables["context"] = parts if len(parts) > 1 else next(iter(parts.values()))
    _given.update((name, variables[name]) for name in ("context", *context_names))
    _watch_inputs()
