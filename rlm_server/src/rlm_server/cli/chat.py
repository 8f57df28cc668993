"""`rlm chat`."""

# ruff: noqa: TC001 - typer reads annotations at run time

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rlm_client import Client, ContextError, RlmError, prepare

from rlm_server.cli import exit_codes, words
from rlm_server.cli.assignments import read_limits
from rlm_server.cli.configuration import read_configuration
from rlm_server.cli.contexts import read_contexts
from rlm_server.cli.endpoint import STAND_IN_NOTICE, choose_endpoint
from rlm_server.cli.options import (
    ApiKeyFileOption,
    BaseUrlOption,
    ConfigOption,
    KeepForOption,
    LimitsOption,
    MaxDepthOption,
    MaxIterationsOption,
    MaxSubcallsOption,
    ModelOption,
    SandboxOption,
    ServerOption,
    SetOption,
    SubModelOption,
    TimeoutOption,
)
from rlm_server.cli.render import AnswerRenderer, Renderer
from rlm_server.cli.render_tree import TreeRenderer
from rlm_server.cli.stack import running_stack_in_thread
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rlm_client import Conversation, PreparedContext

_HELP = """\
/context [NAME=]FILE  gives the next question something new to look at
/variables            lists the variables of the REPL
/quit                 ends the conversation, as the end of the input does"""


def chat(
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="[NAME=]FILE|DIR", help="What to look in; may be given several times."),
    ] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Go on with a conversation that was kept.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Do not close the conversation at the end; its id is told on stderr.")
    ] = False,
    keep_for: KeepForOption = None,
    server: ServerOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    model: ModelOption = None,
    sub_model: SubModelOption = None,
    base_url: BaseUrlOption = None,
    api_key_file: ApiKeyFileOption = None,
    sandbox: SandboxOption = None,
    max_depth: MaxDepthOption = None,
    max_iterations: MaxIterationsOption = None,
    max_subcalls: MaxSubcallsOption = None,
    timeout: TimeoutOption = None,
    limits: LimitsOption = None,
) -> None:
    """Answers questions one after the other; variables and messages stay from one to the next.

    Questions are lines of standard input. On a terminal what happens is shown as a tree; in a pipe the answers only.
    /help lists what else can be written. Ctrl-C ends it, and cancels what runs.

    Exit codes: 0; 2 bad input; 3 server, sandbox or model failed; 130 ended by Ctrl-C.
    """
    if not context and not conversation:
        exit_codes.fail("--context is missing: say what to look in", exit_codes.BAD_INPUT)
    if (keep or conversation) and server is None:
        exit_codes.fail("--keep and --conversation need --server: what is kept is kept there", exit_codes.BAD_INPUT)
    flags = {
        "--sandbox": sandbox,
        "--model": model,
        "--sub-model": sub_model,
        "--base-url": base_url,
        "--api-key-file": api_key_file,
    }
    limit_flags = {
        "max_depth": max_depth,
        "max_iterations": max_iterations,
        "max_subcalls": max_subcalls,
        "wall_time_seconds": timeout,
    }
    try:
        first_context, _ = read_contexts(context or ())
        limits_given = read_limits(limits or (), limit_flags)
        with contextlib.ExitStack() as stack:
            if server is not None:
                target = server
            else:
                endpoint = choose_endpoint(read_configuration(config, assignments, flags))
                if endpoint.is_demo:
                    typer.echo(f"rlm: {STAND_IN_NOTICE}", err=True)
                target = stack.enter_context(running_stack_in_thread(endpoint))
            client = stack.enter_context(Client(target))
            kept = client.conversation(conversation or "", time_to_live_seconds=keep_for)
            options = {"model": model, "sub_model": sub_model, "limits": limits_given}
            with kept if not keep else contextlib.nullcontext(kept) as talk:
                _Chat(talk, first_context, options).run()
            if keep:
                typer.echo(f"rlm: conversation {kept.conversation_id}", err=True)
    except RlmError as error:
        place = server or "the server that this command started"
        exit_codes.fail(exit_codes.message_of(error, place), exit_codes.of_error(error))
    except SettingsError as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)
    except OSError as error:
        exit_codes.fail(str(error), exit_codes.FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(exit_codes.CANCELLED) from None


class _Chat:
    """Takes lines until there are none.

    Args:
        conversation: answers them.
        context: what the first question is about.
        options: of each completion.
    """

    def __init__(self, conversation: Conversation, context: PreparedContext, options: Mapping[str, object]) -> None:
        self._conversation = conversation
        self._context = context
        self._options = options

    def run(self) -> None:
        for line in _lines():
            if line == "/quit":
                return
            if line.startswith("/"):
                self._command(line)
            else:
                self._ask(line)

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == "/context" and argument.strip():
            try:
                self._context, _ = read_contexts([argument.strip()])
            except ContextError as error:
                typer.echo(f"rlm: {error}", err=True)
        elif name == "/variables" and self._conversation.conversation_id:
            for text in words.variables(self._conversation.variables()):
                typer.echo(text)
        else:
            typer.echo(_HELP, err=True)

    def _ask(self, query: str) -> None:
        renderer: Renderer = TreeRenderer() if sys.stdout.isatty() else AnswerRenderer()
        with self._conversation.stream(query, self._context, **self._options) as stream:
            with renderer:
                for event in stream:
                    renderer.event(event)
            completion = stream.result()
        renderer.completion(completion)
        sys.stdout.flush()
        self._context = prepare(None)
        if completion.error:
            typer.echo(f"rlm: {completion.finish_reason}: {completion.error}", err=True)


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
