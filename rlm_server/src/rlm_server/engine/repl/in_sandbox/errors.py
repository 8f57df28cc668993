"""The exceptions that code in the REPL sees. See `prelude.py`."""

from __future__ import annotations


class SubcallError(Exception):
    """A sub-call that failed. It is false in a boolean test, and no str, so that it is not taken for a reply.

    In a list of replies it stands for one of them, and must not pass for text: what would make text of it (`str`,
    `format`, a prompt, an answer) raises it instead. Once it was raised, `str` gives its text, as of any exception.

    Attributes:
        kind: what went wrong, as `refused`, `overloaded` or `max_iterations`.
        message: the same for people.
        partial_answer: the best that a child RLM had when it ended without an answer; may be empty.
    """

    def __init__(self, message: str, kind: str = "failed", partial_answer: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.partial_answer = partial_answer

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        if self.__traceback__ is None:
            raise self
        return f"Error: {self.message}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return f"SubcallError({self.message!r}, kind={self.kind!r})"


class SubcallStormError(BaseException):
    """Sub-calls were refused again and again in one block. It ends the block also where code goes on after errors."""


class ToolError(Exception):
    """A tool that failed.

    Attributes:
        kind: what went wrong: `tool_failed`, `timeout` or `client_gone`.
        message: the same for people.
    """

    def __init__(self, message: str, kind: str = "tool_failed") -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


class UnknownVariableError(NameError):
    """FINAL_VAR was given a name that does not exist."""
