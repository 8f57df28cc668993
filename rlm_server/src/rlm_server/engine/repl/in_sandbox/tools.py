# ruff: noqa: TC004 - what is imported for the type checker is there, as this runs in the same module
"""Tools in the REPL. This source follows that of `prelude.py`, in the same module, where a request has tools.

It is a file of its own since a sandbox compiles what it is sent, where it has not kept what came of it.
"""

from __future__ import annotations

import inspect
import linecache
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm_server.engine.repl.in_sandbox.errors import ToolError
    from rlm_server.engine.repl.in_sandbox.prelude import HostCallError, __all__, _given, host_call

_PROVIDED = tuple(__all__)
_tool_modules: dict[str, types.ModuleType] = {}


class ToolSourceError(Exception):
    """The source of a tool does not define it; its message begins with the tool's place in the request."""


def _add_tool_source(index: int, name: str, source: str, in_scope: bool) -> None:
    """Adds a tool whose source runs here. Tools with the same source are functions of one module."""
    try:
        filename = f"<tool {name}>"
        code = compile(source, filename, "exec", dont_inherit=True)
        if not in_scope:
            return
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        module = _tool_modules.get(source)
        if module is None:
            module = _tool_modules[source] = types.ModuleType(f"tool_{name}")
            sys.modules[module.__name__] = module
            module.__dict__.update((provided, globals()[provided]) for provided in _PROVIDED)
            module.__dict__.update(_given)
            exec(code, module.__dict__)  # noqa: S102 - the request says so
        function = module.__dict__[name]
    except BaseException as error:  # noqa: BLE001 - whatever it is, the client is told
        problem = f"defines no {name}" if isinstance(error, KeyError) and error.args == (name,) else ""
        raise ToolSourceError(f"tools[{index}]: {problem or f'{type(error).__name__}: {error}'}") from None
    _export(name, function)


def _add_served_tool(name: str, doc: str, schema: dict[str, Any] | None) -> None:
    """Adds a tool that the client serves."""
    signature = None if schema is None else _signature(schema)

    def tool(*args: Any, **kwargs: Any) -> Any:
        try:
            arguments = kwargs if signature is None and not args else _bind(signature, args, kwargs)
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        try:
            return host_call(name, **arguments)
        except HostCallError as error:
            raise (TypeError(error.message) if error.type == "bad_arguments" else _tool_error(error)) from None

    tool.__name__ = tool.__qualname__ = name
    tool.__doc__ = doc or None
    tool.__module__ = "__main__"
    if signature is not None:
        tool.__signature__ = signature  # type: ignore[attr-defined]
    _export(name, tool)


def _link_tools() -> None:
    """Lets the sources of tools call the other tools."""
    for module in _tool_modules.values():
        for name in __all__:
            module.__dict__.setdefault(name, globals()[name])


def _signature(schema: dict[str, Any]) -> inspect.Signature:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    names = sorted(properties, key=lambda name: name not in required)
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if name in required else _default(properties[name]),
        )
        for name in names
    ]
    if schema.get("additionalProperties", True):
        parameters.append(inspect.Parameter("_others", inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters)


def _default(schema: Any) -> Any:
    return schema.get("default", ...) if isinstance(schema, dict) else ...


def _bind(signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call by name; those that have no default and were not given are left out."""
    if signature is None:
        raise TypeError("takes its arguments by name")
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    others = bound.arguments.pop("_others", {})
    return {**{name: value for name, value in bound.arguments.items() if value is not ...}, **others}


def _tool_error(error: Any) -> ToolError:
    return ToolError(error.message, error.type)


def _export(name: str, value: object) -> None:
    globals()[name] = value
    __all__.append(name)  # noqa: PYI056 - it is read when this module has run
