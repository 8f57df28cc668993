"""The variables of a local session, and code that runs in them, as sandbox.v1 says."""

from __future__ import annotations

import ast
import asyncio
import builtins
import functools
import inspect
import json
import linecache
import reprlib
import sys
import traceback
import types
from typing import TYPE_CHECKING, Any

from rlm_server.engine.ports.sessions import Variable, VariableListing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType

    from rlm_server.engine.ports.executors import Prelude

_PRELUDE_NAME = "<prelude>"
_SETUP_NAME = "<prelude setup>"
_MAX_LISTED = 200
_PREVIEW_CHARS = 100
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class StopCell(BaseException):
    """Ends a cell with outcome OK."""


class GuestHostCallError(Exception):
    """What a failed host call raises in the code; it knows it as `HostCallError`."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(message)
        self.type = type_name
        self.message = message


class Namespace:
    """The variables of a session."""

    def __init__(self) -> None:
        self.variables: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        self._exports: dict[str, Any] = {}
        self._host_functions: Sequence[str] = ()
        self._after_cell: Callable[[], object] | None = None
        self._cell_names: list[str] = []

    def start(
        self,
        inputs: dict[str, object],
        prelude: Prelude,
        host_functions: Sequence[str],
        host_call: Callable[..., object],
        host_submit: Callable[..., object],
    ) -> None:
        """Runs the prelude's source, sets the inputs, and runs the prelude's setup.

        Raises:
            Exception: the prelude failed.
        """
        self._host_functions = host_functions
        for function in host_functions:
            self.variables[function] = _caller(host_call, function)
        module: dict[str, Any] = {
            "__name__": "prelude",
            "__builtins__": builtins,
            "variables": self.variables,
            "host_call": host_call,
            "host_submit": host_submit,
            "HostCallError": GuestHostCallError,
            "StopCell": StopCell,
        }
        _run(prelude.source, _PRELUDE_NAME, module)
        self.variables.update(inputs)
        _run(prelude.setup, _SETUP_NAME, module)
        self._exports = {name: module[name] for name in module.get("__all__", ())}
        self._after_cell = module.get("after_cell")
        self.variables.update(self._exports)

    def run(self, code: str, name: str) -> None:
        """Runs a cell and shows the value of its last expression as a REPL does.

        Raises:
            BaseException: whatever the code raises.
        """
        _remember_source(name, code)
        self._cell_names.append(name)
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        parts = [compile(tree, name, "exec", _FLAGS)]
        if isinstance(last, ast.Expr):
            parts.append(compile(ast.Expression(last.value), name, "eval", _FLAGS))
        if any(part.co_flags & inspect.CO_COROUTINE for part in parts):
            value = asyncio.run(self._run_awaiting(parts))
        else:
            value = [eval(part, self.variables) for part in parts][-1]  # noqa: S307 - this is what the executor is for
        if value is not None:
            sys.stdout.write(f"{value!r}\n")

    async def _run_awaiting(self, parts: list[CodeType]) -> object:
        value = None
        for part in parts:
            value = eval(part, self.variables)  # noqa: S307
            if part.co_flags & inspect.CO_COROUTINE:
                value = await value
        return value

    def after_cell(self) -> object:
        """Returns the prelude's report, and puts back the names that it provides.

        Raises:
            Exception: the prelude's `after_cell` failed, or what it returned is not for JSON.
        """
        try:
            return json.loads(json.dumps(self._after_cell())) if self._after_cell else None
        finally:
            self.variables.update(self._exports)

    def describe(self) -> VariableListing:
        """Describes the variables; blocks for as long as their `repr()` takes."""
        hidden = (*self._exports, *self._host_functions)
        found = [
            _describe(name, value)
            for name, value in list(self.variables.items())
            if not name.startswith("_") and name not in hidden and not isinstance(value, types.ModuleType)
        ]
        return VariableListing(found[:_MAX_LISTED], max(0, len(found) - _MAX_LISTED))

    def close(self) -> None:
        """Forgets the sources of the cells, which were kept for tracebacks."""
        for name in self._cell_names:
            linecache.cache.pop(name, None)


def format_error(error: BaseException) -> str:
    """Returns the traceback that CPython would print, beginning with the cell's own frame."""
    frames = traceback.extract_tb(error.__traceback__)
    shown = [frame for frame in frames if frame.filename.startswith(("<cell ", _PRELUDE_NAME, _SETUP_NAME))]
    formatted = traceback.TracebackException.from_exception(error)
    formatted.stack = traceback.StackSummary.from_list(shown)
    return "".join(formatted.format())


def _describe(name: str, value: Any) -> Variable:
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = _PREVIEW_CHARS
    try:
        size = len(value)
    except Exception:  # noqa: BLE001 - code of the value's own
        size = -1
    try:
        preview = brief.repr(value)[:_PREVIEW_CHARS]
    except Exception as error:  # noqa: BLE001 - code of the value's own
        preview = f"<repr() raised {type(error).__name__}>"
    kind = type(value)
    type_name = kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__name__}"
    return Variable(name, type_name, size, preview)


def _caller(host_call: Callable[..., object], function: str) -> Callable[..., object]:
    def call(*args: object, **kwargs: object) -> object:
        return host_call(function, *args, **kwargs)

    call.__name__ = function
    return call


def _run(source: str, name: str, module: dict[str, Any]) -> None:
    """Runs a part of the prelude in its module."""
    _remember_source(name, source)
    exec(_compiled(source, name), module)  # noqa: S102 - this is what the executor is for


@functools.lru_cache(maxsize=16)
def _compiled(source: str, name: str) -> CodeType:
    """Compiles a part of the prelude, which is the same for most sessions."""
    return compile(source, name, "exec")


def _remember_source(name: str, source: str) -> None:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
