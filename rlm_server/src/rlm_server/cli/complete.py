"""`rlm complete`."""

# ruff: noqa: TC001, TC003 - typer reads annotations at run time, and calls commands by keyword

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rlm_client import Compaction, ContextError, KeepConversation, Prompts, ReturnFiles, ToolDefinitionError

from rlm_server.cli import exit_codes
from rlm_server.cli.answer_schema import read_schema
from rlm_server.cli.assignments import read_limits, read_sampling
from rlm_server.cli.call import Call
from rlm_server.cli.completions import read_labels
from rlm_server.cli.configuration import microdollars, read_configuration
from rlm_server.cli.contexts import read_contexts
from rlm_server.cli.endpoint import choose_endpoint
from rlm_server.cli.options import (
    AnswerAtLimitOption,
    ApiKeyFileOption,
    BaseUrlOption,
    ChildModelsOption,
    CompactAtOption,
    ConfigOption,
    ContextWindowOption,
    KeepForOption,
    LimitsOption,
    MaxCostOption,
    MaxDepthOption,
    MaxInputTokensOption,
    MaxIterationsOption,
    MaxOutputTokensOption,
    MaxSubcallsOption,
    ModelOption,
    SandboxOption,
    SaveFilesOption,
    ServerOption,
    SetOption,
    SubModelOption,
    TimeoutOption,
)
from rlm_server.cli.prompts import read_overrides
from rlm_server.cli.render import make_renderer
from rlm_server.cli.tools import read_tools
from rlm_server.settings import SettingsError


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
    describe: Annotated[
        list[str] | None,
        typer.Option(
            "--describe", metavar="NAME=TEXT", help="Tells the model what a context is; NAME is the context's."
        ),
    ] = None,
    parse_json: Annotated[
        bool, typer.Option("--parse-json", help="Files named *.json become the values that they hold, not texts.")
    ] = False,
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
    limits: LimitsOption = None,
    sampling: Annotated[
        list[str] | None,
        typer.Option(
            "--sampling",
            metavar="NAME=VALUE",
            help="For the models: temperature, top_p, max_output_tokens (of a reply), reasoning_effort; several times.",
        ),
    ] = None,
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
            metavar="[root=|children=]FILE.py",
            help="Public functions of this file are there for the models' code, in the sandbox; may be repeated.",
        ),
    ] = None,
    serve_tool: Annotated[
        list[str] | None,
        typer.Option(
            "--serve-tool",
            metavar="[root=|children=]FILE.py",
            help="The same, but the functions run here, in this process; may be repeated.",
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
    no_compaction: Annotated[
        bool, typer.Option("--no-compaction", help="Never sum messages up; what does not fit the window ends it.")
    ] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="Let a context that fits the model be answered by one plain call.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the events as JSON lines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write the answer only.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answer to a file, too.")
    ] = None,
    save_files: SaveFilesOption = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--files", metavar="PATTERN", help="Which files are asked for, as *.csv; may be repeated."),
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
    if detach and save_files is not None:
        message = "--detach waits for no files: give --files '*', and --save-files to `rlm completions watch` later"
        exit_codes.fail(message, exit_codes.BAD_INPUT)
    if detach and server is None:
        exit_codes.fail("--detach needs --server: without one the server ends with this command", exit_codes.BAD_INPUT)
    try:
        read, skipped = read_contexts(
            context or (),
            glob=glob,
            exclude=exclude or (),
            charset=charset,
            descriptions=describe or (),
            parse_json=parse_json,
        )
        options = {
            "model": model,
            "sub_model": sub_model,
            "child_models": child_model or (),
            "limits": read_limits(
                limits or (),
                {
                    "max_depth": max_depth,
                    "max_iterations": max_iterations,
                    "max_subcalls": max_subcalls,
                    "wall_time_seconds": timeout,
                    "max_cost_microdollars": microdollars(max_cost),
                    "max_input_tokens": max_input_tokens,
                    "max_output_tokens": max_output_tokens,
                },
            ),
            "sampling": read_sampling(sampling or ()),
            "answer_at_limit": answer_at_limit,
            "prompts": Prompts(prompts, read_overrides(prompt or ())),
            "direct_answer_allowed": direct,
            "compaction": Compaction(no_compaction, compact_at, context_window),
            "tools": read_tools(tool or (), serve_tool or ()),
            "cache_subcalls": cache_subcalls,
            "seed": seed,
            "answer_type": read_schema(answer_schema),
            "look_required": True if require_look else None,
            "request_id": request_id,
            "detached": detach,
            "labels": read_labels(label or []),
            "return_files": ReturnFiles(files or ()) if save_files or files else None,
            "conversation": KeepConversation(conversation or "", keep_for) if keep or conversation else None,
        }
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
    call = Call(query, read, skipped, server, endpoint, options, detach, output, save_files)
    raise typer.Exit(asyncio.run(call.run(make_renderer(as_json=as_json, quiet=quiet))))
