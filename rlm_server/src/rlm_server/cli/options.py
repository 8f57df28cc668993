"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="ADDRESS", help="A running server, as localhost:50051 or unix:PATH."),
]
ModelOption = Annotated[str | None, typer.Option("--model", help="The root's model.")]
SubModelOption = Annotated[
    str | None,
    typer.Option("--sub-model", help="The sub-calls' model. Default: the root's."),
]
ChildModelsOption = Annotated[
    list[str] | None,
    typer.Option("--child-model", help="Model of rlm_query children; again for each depth. Default: the sub-calls'."),
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option("--base-url", help="An OpenAI-compatible endpoint, as http://HOST:8000/v1. [OPENAI_BASE_URL]"),
]
ApiKeyFileOption = Annotated[
    Path | None,
    typer.Option("--api-key-file", help="File with the endpoint's key. Default: the variable OPENAI_API_KEY."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file. Default: $RLM_CONFIG, or ~/.config/rlm/rlm.toml."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting, as default_limits.max_depth=2; several times."),
]
SaveFilesOption = Annotated[
    Path | None,
    typer.Option("--save-files", metavar="DIR", help="Save the files that the root's code writes in a directory."),
]
SandboxOption = Annotated[
    str | None,
    typer.Option(
        "--sandbox",
        metavar="ADDRESS|local",
        help="A running sandbox server, or `local` for this process, without isolation. Default: started as a child.",
    ),
]
MaxDepthOption = Annotated[
    int | None,
    typer.Option("--max-depth", help="How deep rlm_query may nest."),
]
MaxIterationsOption = Annotated[
    int | None,
    typer.Option("--max-iterations", help="Turns of one node."),
]
MaxSubcallsOption = Annotated[
    int | None,
    typer.Option("--max-subcalls", help="Sub-calls in all; each item of a batch counts."),
]
MaxCostOption = Annotated[
    float | None,
    typer.Option("--max-cost", metavar="DOLLARS", help="What models may cost, in US dollars, as 0.25."),
]
MaxInputTokensOption = Annotated[
    int | None,
    typer.Option("--max-input-tokens", help="Tokens that may be sent to models."),
]
MaxOutputTokensOption = Annotated[
    int | None,
    typer.Option("--max-output-tokens", help="Tokens that models may make."),
]
LimitsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        help="Any limit of a request, as max_concurrent_subcalls=4 or cell.wall_time=30; several times.",
    ),
]
AnswerAtLimitOption = Annotated[
    bool | None,
    typer.Option(
        "--answer-at-limit/--no-answer-at-limit",
        help="Whether a limit is followed by one more call, for the best answer. Default: the server's.",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", help="Time of a completion; then it ends with its best answer."),
]
KeepForOption = Annotated[
    float | None,
    typer.Option("--keep-for", metavar="SECONDS", help="How long it is kept after each use. Default: the server's."),
]
ContextWindowOption = Annotated[
    int | None,
    typer.Option("--context-window", metavar="TOKENS", help="Size of the models' windows. Default: the server's."),
]
CompactAtOption = Annotated[
    float | None,
    typer.Option("--compact-at", metavar="PART", help="Part of the window beyond which messages are summed up."),
]
PromptsDirOption = Annotated[
    Path | None,
    typer.Option("--prompts-dir", metavar="DIR", help="Directory with texts for models that add to the server's own."),
]
SamplingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sampling",
        metavar="NAME=VALUE",
        help="For the models: temperature, top_p, max_output_tokens (of a reply), reasoning_effort; several times.",
    ),
]
SubSamplingOption = Annotated[
    list[str] | None,
    typer.Option("--sub-sampling", metavar="NAME=VALUE", help="The same for sub-calls and child RLMs; several times."),
]
PromptsOption = Annotated[
    str, typer.Option("--prompts", metavar="SET", help="Set of texts for models; `rlm prompts` lists them.")
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="NAME=FILE", help="One text of it, from a file; may be given several times."),
]
ToolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tool",
        metavar="[root=|children=]FILE.py",
        help="Public functions of this file are there for the models' code, in the sandbox; may be repeated.",
    ),
]
ServeToolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--serve-tool",
        metavar="[root=|children=]FILE.py",
        help="The same, but the functions run here, in this process; may be repeated.",
    ),
]
CacheSubcallsOption = Annotated[bool, typer.Option("--cache-subcalls", help="Make identical sub-calls once.")]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="The same replies give the same events; sub-calls are made one at a time."),
]
AnswerSchemaOption = Annotated[
    Path | None,
    typer.Option("--answer-schema", metavar="FILE", help="JSON Schema that the answer must match; gives JSON."),
]
RequireLookOption = Annotated[
    bool | None,
    typer.Option(
        "--require-look/--no-require-look",
        help="Whether answers are refused that come before any look at the context. Default: the server's.",
        show_default=False,
    ),
]
NoCompactionOption = Annotated[
    bool, typer.Option("--no-compaction", help="Never sum messages up; what does not fit the window ends it.")
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="Is kept with the completion; may be given several times."),
]
FilesOption = Annotated[
    list[str] | None,
    typer.Option("--files", metavar="PATTERN", help="Which files are asked for, as *.csv; may be repeated."),
]
GlobOption = Annotated[str, typer.Option("--glob", help="Which files of a directory to take, as *.py.")]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Files and directories to leave out, as node_modules."),
]
CharsetOption = Annotated[
    str | None,
    typer.Option("--charset", help="Character set of the files, as iso-8859-1. Default: UTF-8."),
]
DescribeOption = Annotated[
    list[str] | None,
    typer.Option("--describe", metavar="NAME=TEXT", help="Tells the model what a context is; NAME is the context's."),
]
ParseJsonOption = Annotated[
    bool, typer.Option("--parse-json", help="Files named *.json become the values that they hold, not texts.")
]
