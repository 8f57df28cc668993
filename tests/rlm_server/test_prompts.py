"""The texts that models are given: sets, overrides, notes for families of models, an operator's directory."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.engine.ports.models import Price
from rlm_server.engine.prompts import (
    BUILT_IN,
    PROMPT_NAMES,
    PromptError,
    UnknownPromptsError,
    check_text,
    default_prompts,
    fill,
    load_library,
    placeholders_of,
)
from rlm_server.models.profile import ModelProfile
from rlm_server.server import create_server
from rlm_server.settings import Settings, SettingsError

from tests.support.rlm_stack import running_stack
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel

TASK = "Q: $query\n$contexts"
SYSTEM = "You have llm_query. $tools $answer_format"


def system_message(stack: Stack) -> str:
    return stack.model.conversations[-1][0]["content"]


# --- filling


def test_a_line_with_nothing_but_a_placeholder_goes_where_that_has_nothing() -> None:
    template = string.Template("a\n$x\n\n$y\n\nb $x.\n\n$y")
    assert fill(template, x="", y="") == "a\n\nb ."
    assert fill(template, x="X", y="Y") == "a\nX\n\nY\n\nb X.\n\nY"


def test_blank_lines_in_what_is_filled_in_stay() -> None:
    assert fill(string.Template("$a\n$b\n"), a="1\n\n\n\n2", b="") == "1\n\n\n\n2"


@pytest.mark.parametrize("name", PROMPT_NAMES)
@pytest.mark.parametrize("set_name", BUILT_IN)
def test_every_text_that_comes_with_the_server_passes_its_own_check(set_name: str, name: str) -> None:
    check_text(name, load_library().get(set_name).text(name), default_prompts().text(name))


def test_the_system_text_is_compact_and_teaches_what_it_must() -> None:
    text = default_prompts().text("system")
    assert len(text) < 6000
    for word in ("Filter with Python first", "Batch", "SubcallError", "Verify", "FINAL_VAR", 'answer["ready"]'):
        assert word in text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("$query", "lacks $contexts; put in where it is to stand"),
        ("$query $contexts $cost", "has $cost, which nothing fills; there are: $contexts, $query; write $$ for a"),
        ("$query $contexts for 5 $", "begins no placeholder; write $$"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_with_the_remedy(text: str, complaint: str) -> None:
    with pytest.raises(PromptError) as error:
        check_text("task", text, default_prompts().text("task"))
    assert complaint in str(error.value)


def test_what_a_text_may_leave_out_is_optional() -> None:
    placeholders = placeholders_of("system", default_prompts().text("system"))
    assert placeholders.required == {"tools", "answer_format"}
    assert {"budget", "model_note", "subcall_chars"} <= placeholders.optional
    check_text("system", SYSTEM, default_prompts().text("system"))


# --- over gRPC


async def test_a_request_replaces_single_texts(local_stack: Stack) -> None:
    overrides = {"system": SYSTEM + " It costs $$5.", "task": TASK, "no_code": "Code, please: $$."}
    events = await local_stack.complete("hm", "FINAL(x)", query="Why?", prompts=pb.Prompts(overrides=overrides))
    assert events.answer == "x"
    assert system_message(local_stack).rstrip() == "You have llm_query.   It costs $5."
    first, _, nudge = local_stack.model.conversations[-1][1:]
    assert first["content"].startswith("Q: Why?\n- `context`: str, 3 characters")
    assert nudge["content"].startswith("Code, please: $.\n")


@pytest.mark.parametrize(
    ("prompts", "field", "complaint"),
    [
        (pb.Prompts(name="v2"), "prompts.name", "there is no set 'v2'; there are: v1"),
        (pb.Prompts(overrides={"sytem": "x"}), "prompts.overrides[sytem]", "did you mean 'system'?"),
        (pb.Prompts(overrides={"task": "$query"}), "prompts.overrides[task]", "lacks $contexts"),
        (pb.Prompts(overrides={"turn": "$turns"}), "prompts.overrides[turn]", "has $turns, which nothing fills"),
        (pb.Prompts(overrides={"turn": "x" * 100_001}), "prompts.overrides[turn]", "at most 100,000"),
    ],
)
async def test_wrong_prompts_are_refused_by_field(
    local_stack: Stack, prompts: pb.Prompts, field: str, complaint: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await local_stack.complete("FINAL(x)", prompts=prompts)
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(failure.value) == [field]
    assert complaint in str(failure.value.details())


async def test_list_prompts_tells_what_can_be_named_and_replaced(local_stack: Stack) -> None:
    response = await local_stack.stub.ListPrompts(pb.ListPromptsRequest())
    assert response.default_name == "v1"
    (only,) = response.prompt_sets
    assert (only.name, only.from_operator) == ("v1", False)
    assert [prompt.name for prompt in only.prompts] == list(PROMPT_NAMES)
    task = next(prompt for prompt in only.prompts if prompt.name == "task")
    assert task.text == default_prompts().text("task")
    assert (list(task.required_placeholders), list(task.optional_placeholders)) == (["contexts", "query"], [])
    assert "gpt-5*" in next(note for note in response.model_notes if note.family == "gpt-5").patterns


# --- notes for families of models


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-5", "gpt-5"),
        ("openai/GPT-5-mini", "gpt-5"),
        ("gpt-5-nano", "small"),
        ("gpt-oss-120b", "gpt-oss"),
        ("claude-opus-4-1", "claude"),
        ("claude-3-5-haiku-latest", "small"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "coders"),
        ("qwen2.5-coder:7b", "small"),
        ("Qwen/Qwen3-8B", "small"),
        ("deepseek-chat", "coders"),
        ("deepseek-r1", "reasoning"),
        ("gemini-2.5-pro", "gemini"),
        ("demo-model", None),
        ("meta-llama/Llama-3.3-70B-Instruct", None),
    ],
)
def test_a_model_gets_the_note_of_its_family(model: str, family: str | None) -> None:
    library = load_library()
    expected = next((note.text for note in library.model_notes if note.family == family), "")
    assert library.note_for(model) == expected
    assert bool(expected) is (family is not None)


async def test_each_node_gets_the_note_for_its_own_model(local_stack: Stack) -> None:
    await local_stack.complete(
        "```repl\nFINAL(rlm_query('x', model='claude-x'))\n```", "FINAL(y)", model="qwen3-coder", sub_model="m"
    )
    root, child = (conversation[0]["content"] for conversation in local_stack.model.conversations)
    library = load_library()
    assert root.endswith(library.note_for("qwen3-coder"))
    assert child.endswith(library.note_for("claude-x"))


async def test_a_profile_gets_the_note_for_the_model_behind_it(model: ScriptedModel) -> None:
    library = load_library()
    profiles = {"big": ModelProfile(base_url=model.base_url, model="gpt-5"), "claude": ModelProfile(model="deployed-1")}
    async with running_stack(model, models=profiles) as stack:
        for name, family in (("big", "gpt-5"), ("claude", "claude-x")):
            await stack.complete("FINAL(x)", model=name)
            assert system_message(stack).endswith(library.note_for(family))


async def test_code_is_told_which_models_it_can_name_and_what_they_are(model: ScriptedModel) -> None:
    price = Price(input=1.25, output=10)
    profiles = {"big": ModelProfile(window_tokens=400_000, price=price), "blind": ModelProfile(images=False)}
    async with running_stack(model, models=profiles) as stack:
        await stack.complete("FINAL(x)", model="another", child_models=["child"])
        assert (
            "- Models that `model` can name: `sub-model` (the default of `llm_query`), `another`, `child`, "
            "`root-model`, "
            "`big` (window of 400,000 tokens; $1.25 in and $10 out for a million tokens), `blind` (takes no images). "
            "Leave it out"
        ) in system_message(stack)


async def test_where_there_is_one_model_nothing_is_said_of_models(model: ScriptedModel) -> None:
    async with running_stack(model, default_model="m", default_sub_model=None) as stack:
        await stack.complete("FINAL(x)")
        assert "Models that" not in system_message(stack)


@pytest.mark.parametrize("seed", [{}, {"seed": 1}])
async def test_the_budget_is_told_with_the_time_in_all(local_stack: Stack, seed: dict[str, int]) -> None:
    limits = limits_pb2.Limits(max_iterations=7, max_subcalls=2000, wall_time=duration_pb2.Duration(seconds=600))
    await local_stack.complete("FINAL(x)", limits=limits, **seed)
    assert "Budget: at most 7 turns, 2,000 sub-calls and 10 min in all; each message says" in system_message(
        local_stack
    )


async def test_a_model_of_no_family_is_told_how_to_finish_last(local_stack: Stack) -> None:
    await local_stack.complete("FINAL(x)")
    assert system_message(local_stack).endswith("Do not give a plan as the answer.")


# --- an operator's directory


def write(directory: Path, **texts: str) -> Path:
    for path, text in texts.items():
        file = directory / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".toml" if path == "model_notes" else ".txt").write_text(text, encoding="utf-8")
    return directory


async def test_an_operators_set_adds_to_the_servers_own(model: ScriptedModel, tmp_path: Path) -> None:
    directory = write(tmp_path, mine__task=TASK, v1__child_query="Do it.", model_notes='[x]\nmodels=["M*"]\nnote="N!"')
    async with running_stack(model, prompts_dir=directory, default_prompts="mine") as stack:
        await stack.complete("FINAL(x)", query="Why?", model="m1")
        assert stack.model.conversations[-1][1]["content"].startswith("Q: Why?")
        assert system_message(stack).endswith("Do not give a plan as the answer.\n\nN!")
        await stack.complete("FINAL(x)", query="Why?", prompts=pb.Prompts(name="v1"))
        assert stack.model.conversations[-1][1]["content"].startswith("Question:\nWhy?")
        response = await stack.stub.ListPrompts(pb.ListPromptsRequest())
    assert [(one.name, one.from_operator) for one in response.prompt_sets] == [("v1", True), ("mine", True)]
    assert (response.default_name, response.model_notes[0].family) == ("mine", "x")


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"mine__sistem": "x"}, "sistem.txt is no text that there is; did you mean system.txt?"),
        ({"mine__task": "$query"}, "task.txt lacks $contexts"),
        ({"model_notes": "["}, "model_notes.toml is no TOML"),
        ({"model_notes": "[x]\nmodels=[]\nnote=''"}, "[x] models must be a list of patterns"),
        ({"model_notes": "[x]\nmodel='a'"}, "[x] must have `models` and `note`"),
    ],
)
async def test_an_operators_mistake_is_named_at_the_start(
    tmp_path: Path, texts: dict[str, str], complaint: str
) -> None:
    with pytest.raises(SettingsError) as error:
        await create_server(Settings(default_model="m", prompts_dir=write(tmp_path, **texts)))
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"default_prompts": "v3"}, "default_prompts: there is no set 'v3'"),
        ({"prompts_dir": "missing"}, "prompts_dir: "),
    ],
)
async def test_settings_for_prompts_that_cannot_work_are_named(
    tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    if "prompts_dir" in settings:
        settings = {"prompts_dir": tmp_path / settings["prompts_dir"]}
    with pytest.raises(SettingsError) as error:
        await create_server(Settings(default_model="m", **settings))
    assert complaint in str(error.value)


def test_a_set_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UnknownPromptsError):
        load_library().get("v999")


@pytest.mark.parametrize(
    ("settings", "limits", "told"),
    [
        ({}, {}, "100,000"),
        ({"models": {"sub-model": ModelProfile(window_tokens=32_768)}}, {}, "49,000"),
        ({"models": {"sub-model": ModelProfile(window_tokens=1_000_000)}}, {}, "200,000"),
        ({}, {"max_subcall_prompt_chars": 30_500}, "30,000"),
        ({}, {"max_subcall_prompt_chars": 500}, "500"),
    ],
)
async def test_the_model_is_told_how_much_a_sub_call_takes(
    model: ScriptedModel, settings: dict[str, Any], limits: dict[str, int], told: str
) -> None:
    async with running_stack(model, **settings) as stack:
        await stack.complete("FINAL(x)", limits=limits)
        assert f"takes up to some {told} characters" in system_message(stack)
