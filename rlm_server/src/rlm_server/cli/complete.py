"""`rlm complete`."""

# ruff: noqa: TC001, TC003 - typer reads annotations at run time, and calls commands by keyword

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rlm_client import Compaction, ContextError, KeepConversation, ToolDefinitionError

from rlm_server.cli import exit_codes
from rlm_server.cli.call import Call
from rlm_server.cli.configuration import check_flags_for_server, microdollars, read_configuration
from rlm_server.cli.contexts import read_contexts
from rlm_server.cli.endpoint import choose_endpoint
from rlm_server.cli.options import (
    AnswerAtLimitOption,
    AnswerSchemaOption,
    ApiKeyFileOption,
    BaseUrlOption,
    CacheSubcallsOption,
    CharsetOption,
    ChildModelsOption,
    CompactAtOption,
    ConfigOption,
    ContextWindowOption,
    DescribeOption,
    ExcludeOption,
    FilesOption,
    GlobOption,
    KeepForOption,
    LabelOption,
    LimitsOption,
    MaxCostOption,
    MaxDepthOption,
    MaxInputTokensOption,
    MaxIterationsOption,
    MaxOutputTokensOption,
    MaxSubcallsOption,
    ModelOption,
    NoCompactionOption,
    ParseJsonOption,
    PromptOption,
    PromptsOption,
    RequireLookOption,
    SamplingOption,
    SandboxOption,
    SaveFilesOption,
    SeedOption,
    ServerOption,
    ServeToolOption,
    SetOption,
    SubModelOption,
    SubSamplingOption,
    TimeoutOption,
    ToolOption,
)
from rlm_server.cli.render import make_renderer
from rlm_server.cli.request_options import request_options
from rlm_server.settings import SettingsError


def complete(
    query: Annotated[str, typer.Argument(help="The question.")],
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="[NAME=]FILE|DIR|-", help="What to look in; may be given several times."),
    ] = None,
    glob: GlobOption = "*",
    exclude: ExcludeOption = None,
    charset: CharsetOption = None,
    describe: DescribeOption = None,
    parse_json: ParseJsonOption = False,
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
    sampling: SamplingOption = None,
    sub_sampling: SubSamplingOption = None,
    answer_at_limit: AnswerAtLimitOption = None,
    prompts: PromptsOption = "",
    prompt: PromptOption = None,
    tool: ToolOption = None,
    serve_tool: ServeToolOption = None,
    cache_subcalls: CacheSubcallsOption = False,
    seed: SeedOption = None,
    answer_schema: AnswerSchemaOption = None,
    require_look: RequireLookOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="With --server: write the completion's id, and let it go on by itself.")
    ] = False,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="The same id and request give the same completion.")
    ] = None,
    label: LabelOption = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the REPL on the server, as a conversation; its id is told on stderr.")
    ] = False,
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Go on with a conversation that was kept.")
    ] = None,
    keep_for: KeepForOption = None,
    context_window: ContextWindowOption = None,
    compact_at: CompactAtOption = None,
    no_compaction: NoCompactionOption = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="Let a context that fits the model be answered by one plain call.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the events as JSON lines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write the answer only.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answer to a file, too.")
    ] = None,
    save_files: SaveFilesOption = None,
    files: FilesOption = None,
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
    if keep_for is not None and not (keep or conversation):
        message = "--keep-for tells how long a conversation is kept: give --keep or --conversation, too"
        exit_codes.fail(message, exit_codes.BAD_INPUT)
    if detach and save_files is not None:
        message = "--detach waits for no files: give --files '*', and --save-files to `rlm completions watch` later"
        exit_codes.fail(message, exit_codes.BAD_INPUT)
    if detach and serve_tool:
        message = "--detach leaves --serve-tool without this process, which runs its functions: use --tool, or stay"
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
            **request_options(
                model=model,
                sub_model=sub_model,
                child_models=child_model,
                limits=limits,
                limit_flags={
                    "max_depth": max_depth,
                    "max_iterations": max_iterations,
                    "max_subcalls": max_subcalls,
                    "wall_time_seconds": timeout,
                    "max_cost_microdollars": microdollars(max_cost),
                    "max_input_tokens": max_input_tokens,
                    "max_output_tokens": max_output_tokens,
                },
                sampling=sampling,
                sub_sampling=sub_sampling,
                answer_at_limit=answer_at_limit,
                prompts=prompts,
                prompt=prompt,
                compaction=Compaction(no_compaction, compact_at, context_window),
                tool=tool,
                serve_tool=serve_tool,
                cache_subcalls=cache_subcalls,
                seed=seed,
                answer_schema=answer_schema,
                require_look=require_look,
                label=label,
                wants_files=save_files is not None,
                files=files,
            ),
            "direct_answer_allowed": direct,
            "request_id": request_id,
            "detached": detach,
            "conversation": KeepConversation(conversation or "", keep_for) if keep or conversation else None,
        }
        flags = {
            "--sandbox": sandbox,
            "--model": model,
            "--sub-model": sub_model,
            "--base-url": base_url,
            "--api-key-file": api_key_file,
        }
        check_flags_for_server(server, config, assignments, flags)
        endpoint = choose_endpoint(read_configuration(config, assignments, flags)) if server is None else None
    except ContextError as error:
        exit_codes.fail(exit_codes.message_of(error, ""), exit_codes.BAD_INPUT)
    except (SettingsError, ToolDefinitionError) as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)
    call = Call(query, read, skipped, server, endpoint, options, detach, output, save_files)
    raise typer.Exit(asyncio.run(call.run(make_renderer(as_json=as_json, quiet=quiet))))
