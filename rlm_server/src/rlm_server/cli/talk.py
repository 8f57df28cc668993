"""What `rlm chat` does with the lines that it reads."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from typing import TYPE_CHECKING, Any

import typer
from rlm_client import ContextError, RlmError, prepare

from rlm_server.cli import exit_codes, words
from rlm_server.cli.call import tell_skipped
from rlm_server.cli.completions import save, tell
from rlm_server.cli.render import AnswerRenderer, Renderer
from rlm_server.cli.render_tree import TreeRenderer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rlm_client import Completion, Conversation, PreparedContext, SkippedFile

_HELP = """\
/context [NAME=]FILE  gives the next question something new to look at; may be written several times
/variables            lists the variables of the REPL
/quit                 ends the conversation, as the end of the input does"""


class NewContexts:
    """What the next question is given to look at.

    Args:
        read: reads files.
    """

    def __init__(self, read: Callable[..., tuple[PreparedContext, Sequence[SkippedFile]]]) -> None:
        self._read = read
        self._arguments: list[str] = []
        self._descriptions: list[str] = []
        self.next = prepare(None)
        """The context, read."""

    def add(self, arguments: Sequence[str], descriptions: Sequence[str] = ()) -> None:
        """Adds files or directories, each perhaps after `NAME=`.

        Raises:
            ContextError: one cannot be read; nothing is added.
        """
        if "-" in arguments or any(argument.endswith("=-") for argument in arguments):
            raise ContextError("-", "standard input has the questions; give a file")
        described = [*self._descriptions, *descriptions]
        self.next, skipped = self._read([*self._arguments, *arguments], descriptions=described)
        self._arguments += arguments
        self._descriptions = described
        tell_skipped(skipped)

    def clear(self) -> None:
        """Takes note that a question was given them."""
        self._arguments.clear()
        self._descriptions.clear()
        self.next = prepare(None)


class Talk:
    """Takes lines until there are none.

    Args:
        conversation: answers them.
        contexts: what the first question is about.
        options: of each completion.
        save_files: a directory for files that the root's code writes.
    """

    def __init__(
        self, conversation: Conversation, contexts: NewContexts, options: Mapping[str, Any], save_files: Path | None
    ) -> None:
        self._conversation = conversation
        self._contexts = contexts
        self._options = options
        self._save_files = save_files
        self._is_on_terminal = sys.stdin.isatty()
        self._exit_code = exit_codes.ANSWERED

    def run(self) -> int:
        """Returns the exit code of the last question."""
        for line in _lines():
            if line == "/quit":
                break
            try:
                if line.startswith("/"):
                    self._command(line)
                else:
                    self._ask(line)
            except RlmError as error:
                # People can say something else; a script cannot.
                if not self._is_on_terminal:
                    raise
                tell(exit_codes.message_of(error, "the server"))
                self._exit_code = exit_codes.of_error(error)
            except KeyboardInterrupt:
                if not self._is_on_terminal:
                    raise
                tell("cancelled")
                self._exit_code = exit_codes.CANCELLED
        return self._exit_code

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == "/context" and argument.strip():
            try:
                self._contexts.add([argument.strip()])
            except ContextError as error:
                tell(exit_codes.message_of(error, ""))
        elif name == "/variables" and self._conversation.conversation_id:
            for text in words.variables(self._conversation.variables()):
                typer.echo(text)
        else:
            typer.echo(_HELP, err=True)

    def _ask(self, query: str) -> None:
        renderer: Renderer = TreeRenderer() if sys.stdout.isatty() else AnswerRenderer()
        has_begun = bool(self._conversation.conversation_id)
        try:
            completion = self._completed(query, renderer)
        finally:
            # A first question that was refused leaves them to the next one; of later ones they may be what is wrong.
            if has_begun or self._conversation.conversation_id:
                self._contexts.clear()
        if completion.answer_json:
            completion = dataclasses.replace(completion, answer=completion.answer_json)
        renderer.completion(completion)
        sys.stdout.flush()
        self._exit_code = exit_codes.of_completion(completion)
        if self._save_files is not None:
            save(completion.files, self._save_files)
        if completion.error:
            tell(f"{completion.finish_reason}: {completion.error}")

    def _completed(self, query: str, renderer: Renderer) -> Completion[Any]:
        with self._conversation.stream(query, self._contexts.next, on_resume=tell, **self._options) as stream:
            with renderer:
                for event in stream:
                    renderer.event(event)
            return stream.result()


def _lines() -> Iterator[str]:
    """Yields the lines of standard input that hold something; on a terminal they can be edited."""
    prompt = ""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # makes `input` edit lines and remember them
        prompt = "> "
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line:
            yield line
