"""Tells Python source from prose, without running it."""

from __future__ import annotations

import ast
import builtins
import re
import sys
import textwrap
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_MAX_CHARS = 200_000
_MAX_PARAGRAPHS = 20
_STATEMENTS = (
    ast.Assign,
    ast.AugAssign,
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.If,
    ast.Try,
    ast.Match,
    ast.Delete,
    ast.Assert,
    ast.Raise,
)
"""Statements that prose does not happen to be. `Note: this` is an annotation, `Yes` a name, `a, b` a tuple."""
_FINISHING = frozenset({"FINAL", "FINAL_VAR"})
_PROVIDED = frozenset(dir(builtins)) | sys.stdlib_module_names
_FORMATTED = re.compile(r"""(?:[fF][rR]?|[rR][fF])(?P<quote>\"{3}|'{3}|"|')[^{]*\{.*(?P=quote)""", re.DOTALL)


def parses(text: str) -> bool:
    """Whether a text of moderate length is Python, by the grammar of the interpreter that this server runs in."""
    return _parse(text) is not None


def looks_like_code(text: str) -> bool:
    """Whether a text is Python that does something; a lone value, and a lone FINAL, are not."""
    tree = _parse(text)
    return tree is not None and any(_acts(statement, text) for statement in tree.body)


def is_expression(text: str) -> bool:
    """Whether a text is one expression."""
    tree = _parse(text)
    return tree is not None and len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)


def is_computed(text: str, variables: AbstractSet[str]) -> bool:
    """Whether a text is Python that has to run to give a value: an f-string, or an expression of variables.

    A variable alone is none. Every name in the text must be known, but for functions: `len(rows)` and `report(rows)`
    are computed if `rows` is a variable, `f(x)` is not if there is no `x`.
    """
    if _FORMATTED.fullmatch(text):  # it may be of a newer Python than this one
        return True
    tree = _parse(text)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return False
    value = tree.body[0].value
    if isinstance(value, ast.Name):
        return False
    nodes = list(ast.walk(value))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return not names.isdisjoint(variables) and names <= variables | bound | called | _PROVIDED


def string_value(text: str) -> str | None:
    """Returns the value of string literals, also several next to each other; None if a text is anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, str) else None


def without_needless_indentation(code: str) -> str:
    """Returns code that is indented as a whole without that, if it is Python only so; else as it is."""
    if code[:1] not in (" ", "\t", "\n") or parses(code):
        return code
    dedented = textwrap.dedent(code)
    return dedented if parses(dedented) else code


def without_prompts(code: str) -> str:
    """Returns the input of an interpreter's transcript (`>>> x`), without its prompts and output; else as it is."""
    if not code.lstrip().startswith(">>>"):
        return code
    lines = [line.lstrip() for line in code.split("\n")]
    return "\n".join(line[4:] for line in lines if line.startswith((">>>", "...")))


def split_unfenced(text: str) -> tuple[str, str] | None:
    """Splits a text without fences into prose and the code that it ends with; None if it ends with none.

    Code may begin with the text, or after an empty line or a line that ends with a colon.
    """
    lines = text.split("\n")
    starts = [0] + [
        index
        for index in range(1, len(lines))
        if lines[index].strip() and (not lines[index - 1].strip() or lines[index - 1].rstrip().endswith(":"))
    ]
    # A code's own empty lines are starts, too: the first one that makes the rest Python is the beginning.
    for start in starts[:1] + starts[1:][-_MAX_PARAGRAPHS:]:
        code = "\n".join(lines[start:])
        if looks_like_code(code):
            return "\n".join(lines[:start]), code
    return None


def _acts(statement: ast.stmt, text: str) -> bool:
    if isinstance(statement, _STATEMENTS):
        return True
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value.value if isinstance(statement.value, ast.Await) else statement.value
    if not isinstance(value, ast.Call):
        return False
    if isinstance(value.func, ast.Name) and value.func.id in _FINISHING:
        return False
    # `print(x)`, but not `Yes (probably)`.
    called = ast.get_source_segment(text, value) or ""
    function = ast.get_source_segment(text, value.func) or ""
    return called.startswith(f"{function}(")


def _parse(text: str) -> ast.Module | None:
    if len(text) > _MAX_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on escapes in strings; they are for whoever runs the code
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
