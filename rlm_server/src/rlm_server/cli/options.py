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
