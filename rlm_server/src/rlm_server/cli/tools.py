"""The `--tool` and `--serve-tool` options, read."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from rlm_client import Tool, ToolDefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_SCOPES = ("root", "children")

_Scope = Literal["all", "root", "children"]


def read_tools(in_sandbox: Sequence[str], served: Sequence[str]) -> list[Tool]:
    """Returns the tools that the options name: the public functions of files.

    Args:
        in_sandbox: files whose functions run in the sandbox, each a path, or one after `root=` or `children=`.
        served: files that this process imports, to run their functions itself, likewise.

    Raises:
        ToolDefinitionError: a file cannot be read or imported, or defines no tool.
    """
    tools: list[Tool] = []
    for option in in_sandbox:
        scope, path = _split(option)
        tools += [dataclasses.replace(tool, scope=scope) for tool in Tool.all_in_file(path)]
    for option in served:
        scope, path = _split(option)
        module = _imported(path)
        functions = [
            one
            for name, one in vars(module).items()
            if inspect.isfunction(one) and one.__module__ == module.__name__ and not name.startswith("_")
        ]
        if not functions:
            raise ToolDefinitionError(f"{path} defines no public function")
        tools += [Tool.served(function, scope=scope) for function in functions]
    return tools


def _split(option: str) -> tuple[_Scope, str]:
    """Returns which nodes have the tools of a file, and the file. A path that exists is never taken for a scope."""
    scope, separator, path = option.partition("=")
    if separator and scope in _SCOPES and not Path(option).exists():
        return cast("_Scope", scope), path
    return "all", option


def _imported(path: str) -> ModuleType:
    """Imports a file; modules in its directory can be imported by it, as where it is run."""
    spec = importlib.util.spec_from_file_location(f"rlm_tools_{Path(path).stem}", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ToolDefinitionError(f"{path} is no Python file that is there")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look their module up
    sys.path.append(str(Path(path).resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ToolDefinitionError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
