"""What options say of a completion, as arguments of the client; `rlm complete` and `rlm chat` have most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlm_client import Prompts, ReturnFiles

from rlm_server.cli.answer_schema import read_schema
from rlm_server.cli.assignments import read_limits, read_sampling
from rlm_server.cli.completions import read_labels
from rlm_server.cli.prompts import read_overrides
from rlm_server.cli.tools import read_tools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rlm_client import Compaction


def request_options(
    *,
    model: str | None,
    sub_model: str | None,
    child_models: Sequence[str] | None,
    limits: Sequence[str] | None,
    limit_flags: Mapping[str, Any],
    sampling: Sequence[str] | None,
    sub_sampling: Sequence[str] | None,
    answer_at_limit: bool | None,
    prompts: str,
    prompt: Sequence[str] | None,
    compaction: Compaction,
    tool: Sequence[str] | None,
    serve_tool: Sequence[str] | None,
    cache_subcalls: bool,
    seed: int | None,
    answer_schema: Path | None,
    require_look: bool | None,
    label: Sequence[str] | None,
    wants_files: bool,
    files: Sequence[str] | None,
) -> dict[str, Any]:
    """Returns arguments of `AsyncClient.stream`, of what the options of these names say.

    Raises:
        SettingsError: an option is wrong.
        ToolDefinitionError: a file of tools is.
    """
    return {
        "model": model,
        "sub_model": sub_model,
        "child_models": child_models or (),
        "limits": read_limits(limits or (), limit_flags),
        "sampling": read_sampling("--sampling", sampling or ()),
        "sub_sampling": read_sampling("--sub-sampling", sub_sampling or ()),
        "answer_at_limit": answer_at_limit,
        "prompts": Prompts(prompts, read_overrides(prompt or ())),
        "compaction": compaction,
        "tools": read_tools(tool or (), serve_tool or ()),
        "cache_subcalls": cache_subcalls,
        "seed": seed,
        "answer_type": read_schema(answer_schema),
        "look_required": require_look,
        "labels": read_labels(list(label or ())),
        "return_files": ReturnFiles(files or ()) if wants_files or files else None,
    }
