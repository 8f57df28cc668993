"""Runs cells in the session's namespace, the way a REPL does."""

import ast
import asyncio
import inspect
import io
import linecache
import sys
import traceback

from streams import OutputLimitExceeded

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_MAX_MESSAGE_CHARS = 8 << 10
_MAX_TRACEBACK_CHARS = 32 << 10
_BALLAST_BYTES = 1 << 18
"""Memory that is set aside twice: to say that memory is out, and to read the next cell nevertheless."""


class StopCell(BaseException):
    """Ends a cell as if it had come to its end."""


class CellRunner:
    """Runs cells, numbered from 1.

    Args:
        namespace: the session's variables.
    """

    def __init__(self, namespace):
        self._namespace = namespace
        self._count = 0
        self._for_error = bytearray(_BALLAST_BYTES)
        self._for_start = bytearray(_BALLAST_BYTES)

    def run(self, code):
        """Runs a cell; returns the members of the result that concern its end."""
        is_tight = self._for_error is None
        if is_tight:
            self._for_start = None  # so that code which frees memory can be read at all
        self._count += 1
        filename = f"<cell {self._count}>"
        # Where tracebacks look for source lines.
        lines = io.StringIO(code, newline=None).readlines()  # as the parser counts them, which `splitlines` does not
        linecache.cache[filename] = (len(code), None, lines, filename)
        value_repr = None
        try:
            value_repr = self._show(self._execute(*_parse(code, filename)))
            return {"outcome": "OK", "value_repr": value_repr}
        except StopCell:
            return {"outcome": "OK", "value_repr": value_repr}
        except OutputLimitExceeded as error:
            return {"outcome": "OUTPUT_LIMIT", "error": _describe(error, filename)}
        except SystemExit as error:
            return {"outcome": "EXITED", "exit_code": _exit_code(error.code), "error": _describe(error, filename)}
        except MemoryError as error:
            self._for_error = None
            is_tight = True
            return {"outcome": "OUT_OF_MEMORY", "error": _describe(error, filename)}
        except BaseException as error:
            return {"outcome": "EXCEPTION", "error": _describe(error, filename)}
        finally:
            if is_tight:
                self._take_ballast()

    def _take_ballast(self):
        """Sets memory aside again; what cannot be had now is tried for after the next cell."""
        try:
            self._for_start = self._for_start or bytearray(_BALLAST_BYTES)
            self._for_error = bytearray(_BALLAST_BYTES)
        except MemoryError:
            pass

    def _execute(self, body, last):
        """Runs the statements, then returns the value of the expression; `None` stands for what a cell has not.

        A cell that awaits at its top level runs in an event loop of its own; tasks that it leaves behind are cancelled.
        """
        if any(part is not None and part.co_flags & inspect.CO_COROUTINE for part in (body, last)):
            return asyncio.run(self._execute_awaiting(body, last))
        if body is not None:
            exec(body, self._namespace)
        return None if last is None else eval(last, self._namespace)

    async def _execute_awaiting(self, body, last):
        value = None
        for part in (body, last):
            value = None if part is None else eval(part, self._namespace)
            if part is not None and part.co_flags & inspect.CO_COROUTINE:
                value = await value
        return value

    def _show(self, value):
        if value is None:
            return None
        text = repr(value)
        self._namespace["_"] = value
        sys.stdout.write(text + "\n")
        return text if len(text) <= _MAX_MESSAGE_CHARS else _cut_middle(text, _MAX_MESSAGE_CHARS)


def _parse(code, filename):
    """Splits a cell into its statements and the expression at its end, both compiled; either may be None."""
    try:
        tree = ast.parse(code, filename)
    except MemoryError as error:
        # What the parser raises when its own stack is full; memory is not.
        raise SyntaxError(f"the source is nested too deeply: {error}") from None
    last = None
    try:
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = compile(ast.Expression(tree.body.pop().value), filename, "eval", _FLAGS)
        body = compile(tree, filename, "exec", _FLAGS) if tree.body else None
    except SyntaxError as error:
        if error.text is None:  # a tree does not know its source
            error.text = linecache.getline(filename, error.lineno or 0) or None
        raise
    return body, last


def _exit_code(code):
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def _describe(error, filename):
    """Describes an exception as CPython would print it, without the frames of this harness."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != filename:
        frames = frames.tb_next
    try:
        message = str(error)
    except BaseException as second:
        message = f"<str() of the exception raised {type(second).__name__}>"
    try:
        lines = traceback.format_exception(error.with_traceback(frames))
        text = "".join(lines)
    except BaseException as second:
        text = f"{type(error).__name__}: {message}\n<formatting the traceback raised {type(second).__name__}>\n"
    return {
        "type": type(error).__name__,
        "message": _printable(_cut_middle(message, _MAX_MESSAGE_CHARS)),
        "traceback": _printable(_cut_middle(text, _MAX_TRACEBACK_CHARS)),
    }


def _cut_middle(text, limit):
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... [{len(text) - 2 * half} characters cut] ...\n{text[-half:]}"


def _printable(text):
    return text.encode("utf-8", "backslashreplace").decode()
