"""`rlm complete`."""

# ruff: noqa: TC001, TC003 - typer reads annotations at run time, and calls commands by keyword

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rlm_client import (
    AsyncClient,
    CallCancelledError,
    Compaction,
    ContextError,
    JsonSchema,
    KeepConversation,
    Limits,
    PreparedContext,
    Prompts,
    RlmError,
    SkippedFile,
    Tool,
    ToolDefinitionError,
)

from rlm_server.cli import exit_codes
from rlm_server.cli.answer_schema import read_schema
from rlm_server.cli.completions import read_labels, tell
from rlm_server.cli.configuration import microdollars, read_configuration
from rlm_server.cli.contexts import read_contexts
from rlm_server.cli.endpoint import STAND_IN_NOTICE, Endpoint, choose_endpoint
from rlm_server.cli.options import (
    AnswerAtLimitOption,
    ApiKeyFileOption,
    BaseUrlOption,
    ChildModelsOption,
    CompactAtOption,
    ConfigOption,
    ContextWindowOption,
    KeepForOption,
    MaxCostOption,
    MaxDepthOption,
    MaxInputTokensOption,
    MaxIterationsOption,
    MaxOutputTokensOption,
    MaxSubcallsOption,
    ModelOption,
    SandboxOption,
    ServerOption,
    SetOption,
    SubModelOption,
    TimeoutOption,
)
from rlm_server.cli.prompts import read_overrides
from rlm_server.cli.render import Renderer, make_renderer
from rlm_server.cli.stack import running_stack
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_SHOWN_SKIPPED_FILES = 5


def complete(
    query: Annotated[str, typer.Argument(help="The question.")],
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="[NAME=]FILE|DIR|-", help="What to look in; may be given several times."),
    ] = None,
    glob: Annotated[str, typer.Option("--glob", help="Which files of a directory to take, as *.py.")] = "*",
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="GLOB", help="Files and directories to leave out, as node_modules."),
    ] = None,
    charset: Annotated[
        str | None,
        typer.Option("--charset", help="Character set of the files, as iso-8859-1. Default: UTF-8."),
    ] = None,
    server: ServerOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    model: ModelOption = None,
    sub_model: SubModelOption = None,
    child_model: ChildModelsOption = None,
    base_url: BaseUrlOption = None,
    api_key_file: ApiKeyFileOption = None,
    sandbox: SandboxOption = None,
    max_depth: MaxDepthOption = None,
    max_iterations: MaxIterationsOption = None,
    max_subcalls: MaxSubcallsOption = None,
    max_cost: MaxCostOption = None,
    max_input_tokens: MaxInputTokensOption = None,
    max_output_tokens: MaxOutputTokensOption = None,
    timeout: TimeoutOption = None,
    answer_at_limit: AnswerAtLimitOption = None,
    prompts: Annotated[
        str, typer.Option("--prompts", metavar="SET", help="Set of texts for models; `rlm prompts` lists them.")
    ] = "",
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="NAME=FILE", help="One text of it, from a file; may be given several times."),
    ] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            "--tool",
            metavar="FILE.py",
            help="Public functions of this file are there for the models' code, in the sandbox; may be repeated.",
        ),
    ] = None,
    cache_subcalls: Annotated[bool, typer.Option("--cache-subcalls", help="Make identical sub-calls once.")] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="The same replies give the same events; sub-calls are made one at a time."),
    ] = None,
    answer_schema: Annotated[
        Path | None,
        typer.Option("--answer-schema", metavar="FILE", help="JSON Schema that the answer must match; gives JSON."),
    ] = None,
    require_look: Annotated[
        bool, typer.Option("--require-look", help="Refuse answers that come before any look at the context.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="With --server: write the completion's id, and let it go on by itself.")
    ] = False,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="The same id and request give the same completion.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="Is kept with the completion; may be given several times."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the REPL on the server, as a conversation; its id is told on stderr.")
    ] = False,
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Go on with a conversation that was kept.")
    ] = None,
    keep_for: KeepForOption = None,
    context_window: ContextWindowOption = None,
    compact_at: CompactAtOption = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Let a context that fits the model be answered by one plain call.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the events as JSON lines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write the answer only.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answer to a file, too.")
    ] = None,
) -> None:
    """Answers a question about files, directories or standard input.

    With --server a running server does it. Without, both servers are started for this one call.

    On a terminal the calls are shown as a tree; in a pipe as plain lines, which begin with the node they belong to.

    Exit codes: 0 answered; 1 ended at a limit; 2 bad input; 3 server, sandbox or model failed; 130 cancelled.
    """
    if not context and not conversation:
        exit_codes.fail("--context is missing: say what to look in", exit_codes.BAD_INPUT)
    if (keep or conversation) and server is None:
        exit_codes.fail("--keep and --conversation need --server: what is kept is kept there", exit_codes.BAD_INPUT)
    kept = KeepConversation(conversation or "", keep_for) if keep or conversation else None
    try:
        read, skipped = read_contexts(context or (), glob=glob, exclude=exclude or (), charset=charset)
        chosen_prompts = Prompts(prompts, read_overrides(prompt or ()))
        tools = [one for path in tool or () for one in Tool.all_in_file(path)]
        wanted = _Answer(read_schema(answer_schema), True if require_look else None)
        endpoint = None
        if server is None:
            flags = {
                "--sandbox": sandbox,
                "--model": model,
                "--sub-model": sub_model,
                "--base-url": base_url,
                "--api-key-file": api_key_file,
            }
            endpoint = choose_endpoint(read_configuration(config, assignments, flags))
    except ContextError as error:
        exit_codes.fail(exit_codes.message_of(error, ""), exit_codes.BAD_INPUT)
    except (SettingsError, ToolDefinitionError) as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)
    labels = read_labels(label or [])
    if detach and server is None:
        exit_codes.fail("--detach needs --server: without one the server ends with this command", exit_codes.BAD_INPUT)
    limits = Limits(
        max_depth=max_depth,
        max_iterations=max_iterations,
        max_subcalls=max_subcalls,
        wall_time_seconds=timeout,
        max_cost_microdollars=microdollars(max_cost),
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
    )
    compaction = Compaction(threshold=compact_at, context_window_tokens=context_window)
    models = _Models(model, sub_model, tuple(child_model or ()))
    call = _Call(
        query,
        read,
        skipped,
        server,
        endpoint,
        models,
        limits,
        answer_at_limit,
        chosen_prompts,
        direct,
        compaction,
        tools,
        wanted,
        cache_subcalls,
        seed,
        _Keeping(detach, request_id, labels, kept),
        output,
    )
    raise typer.Exit(asyncio.run(call.run(make_renderer(as_json=as_json, quiet=quiet))))


@dataclass(frozen=True)
class _Models:
    root: str | None
    sub: str | None
    children: Sequence[str]


@dataclass(frozen=True)
class _Answer:
    schema: JsonSchema | None
    look_required: bool | None


@dataclass(frozen=True)
class _Keeping:
    """How the completion, and its REPL, are kept by the server."""

    detach: bool
    request_id: str | None
    labels: dict[str, str]
    conversation: KeepConversation | None


@dataclass(frozen=True)
class _Call:
    query: str
    context: PreparedContext
    skipped_files: Sequence[SkippedFile]
    server: str | None
    endpoint: Endpoint | None
    models: _Models
    limits: Limits
    answer_at_limit: bool | None
    prompts: Prompts
    direct: bool
    compaction: Compaction
    tools: Sequence[Tool]
    answer: _Answer
    cache_subcalls: bool
    seed: int | None
    keeping: _Keeping
    output: Path | None

    async def run(self, renderer: Renderer) -> int:
        """Makes the call, shows it, and returns the exit code."""
        task = asyncio.create_task(self._complete(renderer))
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            # A second Ctrl-C must work even if the clean-up hangs.
            loop.remove_signal_handler(signal.SIGINT)
            task.cancel()

        loop.add_signal_handler(signal.SIGINT, cancel)
        loop.add_signal_handler(signal.SIGTERM, cancel)
        try:
            return await task
        except (asyncio.CancelledError, CallCancelledError):
            _tell("cancelled")
            return exit_codes.CANCELLED
        except RlmError as error:
            _tell(exit_codes.message_of(error, self.server or "the server that this command started"))
            return exit_codes.of_error(error)
        except SettingsError as error:
            _tell(str(error))
            return exit_codes.BAD_INPUT
        except BrokenPipeError:
            # Who read stdout has gone, as `head` does; what is still buffered must not fail once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return exit_codes.FAILED
        except OSError as error:
            _tell(str(error))
            return exit_codes.FAILED

    async def _complete(self, renderer: Renderer) -> int:
        if self.endpoint is not None and self.endpoint.is_demo:
            _tell(STAND_IN_NOTICE)
        _tell_skipped(self.skipped_files)
        async with self._target() as target, AsyncClient(target) as client:
            stream = await client.stream(
                self.context,
                self.query,
                model=self.models.root,
                sub_model=self.models.sub,
                child_models=self.models.children,
                limits=self.limits,
                answer_at_limit=self.answer_at_limit,
                prompts=self.prompts,
                direct_answer_allowed=self.direct,
                compaction=self.compaction,
                tools=self.tools,
                cache_subcalls=self.cache_subcalls,
                seed=self.seed,
                answer_type=self.answer.schema,
                look_required=self.answer.look_required,
                request_id=self.keeping.request_id,
                detached=self.keeping.detach,
                labels=self.keeping.labels,
                on_resume=tell,
                conversation=self.keeping.conversation,
            )
            async with stream:
                if self.keeping.detach:
                    await anext(stream)
                    typer.echo(stream.completion_id)
                    return exit_codes.ANSWERED
                with renderer:
                    async for event in stream:
                        renderer.event(event)
                completion = await stream.result()
            if completion.answer_json:
                completion = dataclasses.replace(completion, answer=completion.answer_json)
            renderer.completion(completion)
        if self.output is not None:
            await asyncio.to_thread(self.output.write_text, completion.answer, encoding="utf-8")
        if completion.conversation_id:
            _tell(f"conversation {completion.conversation_id}")
        if completion.error:
            _tell(f"{completion.finish_reason}: {completion.error}")
        return exit_codes.of_completion(completion)

    @contextlib.asynccontextmanager
    async def _target(self) -> AsyncIterator[str]:
        if self.server is not None or self.endpoint is None:
            yield self.server or ""
            return
        async with running_stack(self.endpoint) as target:
            yield target


def _tell(text: str) -> None:
    sys.stdout.flush()
    typer.echo(f"rlm: {text}", err=True)


def _tell_skipped(skipped_files: Sequence[SkippedFile]) -> None:
    if not skipped_files:
        return
    _tell(f"{len(skipped_files)} files or directories are left out:")
    for skipped in skipped_files[:_SHOWN_SKIPPED_FILES]:
        typer.echo(f"  {skipped.path}: {skipped.reason}", err=True)
    if len(skipped_files) > _SHOWN_SKIPPED_FILES:
        typer.echo(f"  and {len(skipped_files) - _SHOWN_SKIPPED_FILES} more", err=True)
