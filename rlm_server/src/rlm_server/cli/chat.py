"""`rlm chat`."""

# ruff: noqa: TC001 - typer reads annotations at run time

from __future__ import annotations

import contextlib
import functools
from typing import Annotated

import typer
from rlm_client import Client, Compaction, RlmError, ToolDefinitionError

from rlm_server.cli import exit_codes
from rlm_server.cli.configuration import check_flags_for_server, microdollars, read_configuration
from rlm_server.cli.contexts import read_contexts
from rlm_server.cli.endpoint import STAND_IN_NOTICE, choose_endpoint
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
from rlm_server.cli.request_options import request_options
from rlm_server.cli.stack import running_stack_in_thread
from rlm_server.cli.talk import NewContexts, Talk
from rlm_server.settings import SettingsError


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
    label: LabelOption = None,
    context_window: ContextWindowOption = None,
    compact_at: CompactAtOption = None,
    no_compaction: NoCompactionOption = False,
    save_files: SaveFilesOption = None,
    files: FilesOption = None,
) -> None:
    """Answers questions one after the other; variables and messages stay from one to the next.

    Questions are lines of standard input. On a terminal what happens is shown as a tree; in a pipe the answers only.
    Limits hold for each question. /help lists what else can be written. Ctrl-C cancels what runs, and ends the chat
    where nothing does, or in a pipe.

    Exit codes: that of the last question, as of `rlm complete`; 2 bad input; 3 server or sandbox failed; 130 ended by
    Ctrl-C.
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
    contexts = NewContexts(
        functools.partial(read_contexts, glob=glob, exclude=exclude or (), charset=charset, parse_json=parse_json)
    )
    try:
        contexts.add(context or (), descriptions=describe or ())
        options = request_options(
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
        )
        check_flags_for_server(server, config, assignments, flags)
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
            with kept if not keep else contextlib.nullcontext(kept) as talk:
                exit_code = Talk(talk, contexts, options, save_files).run()
            if keep and kept.conversation_id:
                typer.echo(f"rlm: conversation {kept.conversation_id}", err=True)
    except RlmError as error:
        place = server or "the server that this command started"
        exit_codes.fail(exit_codes.message_of(error, place), exit_codes.of_error(error))
    except (SettingsError, ToolDefinitionError) as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)
    except OSError as error:
        exit_codes.fail(str(error), exit_codes.FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(exit_codes.CANCELLED) from None
    raise typer.Exit(exit_code)
