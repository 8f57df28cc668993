"""How a completion is shown: a live tree on a terminal, plain lines in a pipe, JSON lines, or its answer only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

import typer
from google.protobuf import json_format

from rlm_server.cli.render_lines import LineRenderer
from rlm_server.cli.render_tree import TreeRenderer

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rlm_client import Completion, Event


class Renderer(Protocol):
    """Shows the events of a completion; a context manager around the stream."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def event(self, event: Event) -> None:
        """Shows an event."""

    def completion(self, completion: Completion) -> None:
        """Shows what the completion came to, after its stream has ended."""


def make_renderer(*, as_json: bool, quiet: bool) -> Renderer:
    """Returns the renderer that fits the options and what stdout is."""
    if as_json:
        return JsonRenderer()
    if quiet:
        return AnswerRenderer()
    return TreeRenderer() if sys.stdout.isatty() else LineRenderer()


class _Silent:
    """A renderer that shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to clean up."""

    def event(self, event: Event) -> None:
        """Shows nothing."""

    def completion(self, completion: Completion) -> None:
        """Shows nothing."""


class JsonRenderer(_Silent):
    """Writes every event as a line of JSON, in protobuf's JSON mapping."""

    def event(self, event: Event) -> None:
        """Writes the event."""
        typer.echo(json_format.MessageToJson(event, indent=None, ensure_ascii=False))


class AnswerRenderer(_Silent):
    """Writes the answer only."""

    def completion(self, completion: Completion) -> None:
        """Writes the answer."""
        typer.echo(completion.answer)
