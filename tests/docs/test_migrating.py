"""docs/migrating.md has all arguments of the libraries that it is about, and names what there is here."""

from __future__ import annotations

import dataclasses
import inspect
import re

import rlm_client
from rlm_api.rlm.v1 import event_pb2
from rlm_server.engine.repl.prelude import REPL_NAMES
from rlm_server.models.profile import ModelProfile

from tests.support.documents import ROOT, tables

PAGE = ROOT / "docs" / "migrating.md"

RLM_ARGUMENTS = """
backend backend_kwargs environment environment_kwargs depth max_depth max_iterations max_budget max_timeout max_tokens
max_errors custom_system_prompt other_backends other_backend_kwargs logger verbose persistent custom_tools
custom_sub_tools compaction compaction_threshold_pct max_concurrent_subcalls on_subcall_start on_subcall_complete
on_iteration_start on_iteration_complete sampling_args sub_sampling_args orchestrator user_prologue
"""
RLM_NAMES = """
context history llm_query llm_query_batched rlm_query rlm_query_batched SHOW_VARS answer FINAL FINAL_VAR
"""
RLM_BACKENDS = "openai portkey openrouter vercel vllm anthropic azure_openai gemini"
RLM_ENVIRONMENTS = "local ipython docker modal prime daytona e2b"
DSPY_ARGUMENTS = """
signature max_iters max_llm_calls max_output_chars verbose tools sub_lm interpreter_factory
"""


def words(heading: str, column: int = 0) -> set[str]:
    """Returns the identifiers in the code of a column of a table."""
    cells = [row[column] for row in next(tables(PAGE, heading))[1:]]
    return set(re.findall(r"\w+", " ".join(cells)))


def cells() -> list[str]:
    headings = ["Arguments of `RLM`", "Results and errors", "Environments", "Backends", "`dspy.RLM`"]
    headings += ["Names in the REPL", "`fast-rlm` and others"]
    return [row[1] for heading in headings for row in next(tables(PAGE, heading.replace("`", "")))[1:]]


def test_what_there_is_there_is_told_of() -> None:
    for heading, wanted in (
        ("Arguments of RLM", RLM_ARGUMENTS),
        ("Names in the REPL", RLM_NAMES),
        ("Backends", RLM_BACKENDS),
        ("Environments", RLM_ENVIRONMENTS),
        ("dspy.RLM", DSPY_ARGUMENTS),
    ):
        assert not set(wanted.split()) - words(heading)


def test_what_is_named_of_here_exists() -> None:
    text = "\n".join(cells())
    known = set(inspect.signature(rlm_client.Client.completion).parameters) | set(REPL_NAMES)
    known |= set(inspect.signature(rlm_client.Tool.served).parameters)
    for kind in (rlm_client.Limits, rlm_client.Compaction, rlm_client.Part, rlm_client.Prompts, ModelProfile):
        known |= {field.name for field in dataclasses.fields(kind)}
    known |= {"context", "contexts"}  # of `rlm_query`
    assert not set(re.findall(r"(\w+) ?=", text)) - known - {"scope"}
    events = {field.name for field in event_pb2.Event.DESCRIPTOR.fields}
    assert set(re.findall(r"\b\w+_(?:started|finished)\b", text)) <= events
    assert set(re.findall(r"\b(?:MAX_[A-Z]+|WALL_TIME|CANCELLED)\b", text)) <= set(rlm_client.FinishReason.__members__)
    owners = (rlm_client, rlm_client.Client, rlm_client.EventStream, rlm_client.Tool)
    for name in set(re.findall(r"(?<!\w)(\w+)\(", text)) - {"to_dict"}:  # of pandas
        assert name in REPL_NAMES or any(hasattr(owner, name) for owner in owners), name
