"""Profiles: which endpoint a model's calls go to, with which key and options, and how many of them at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.configuration import load, showing
from rlm_server.models.gate import Gate
from rlm_server.models.registry import ModelRegistry, profile_key
from rlm_server.settings import Settings, SettingsError

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_model import ScriptedModel

PROFILES = {"base_url": None, "default_model": "", "default_sub_model": None}


async def test_each_model_is_asked_at_its_own_endpoint_with_its_own_key_and_options(
    model: ScriptedModel, other: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("from-file\n")
    monkeypatch.setenv("SOME_KEY", "from-variable")
    models = {
        "big": {"base_url": model.base_url, "api_key_file": key_file, "model": "gpt-big", "reasoning_effort": "high"},
        "small": {"base_url": other.base_url, "api_key_env": "SOME_KEY", "api": "responses", "temperature": 0},
    }
    other.follow(["sub"])
    async with running_stack(model, models=models, **PROFILES | {"default_sub_model": "small"}) as stack:
        events = await stack.complete("```repl\nFINAL(llm_query('q'))\n```")
    assert events.answer == "sub"
    assert events.all[0].started.model == "big"
    assert model.request_headers[0]["authorization"] == "Bearer from-file"
    assert (model.requests[0]["model"], model.requests[0]["reasoning_effort"]) == ("gpt-big", "high")
    assert other.request_headers[0]["authorization"] == "Bearer from-variable"
    assert other.request_paths == ["v1/responses"]
    assert (other.requests[0]["model"], other.requests[0]["temperature"]) == ("small", 0)


async def test_a_profile_without_an_endpoint_has_the_servers(model: ScriptedModel) -> None:
    settings = {"base_url": model.base_url, "api_key": "the-servers", "default_model": "m"}
    async with running_stack(model, models={"m": {"max_output_tokens": 9}}, **settings) as stack:
        await stack.complete("FINAL(x)")
    assert model.request_headers[0]["authorization"] == "Bearer the-servers"
    assert model.requests[0]["max_tokens"] == 9


async def test_a_key_of_the_servers_does_not_go_to_another_endpoint(model: ScriptedModel) -> None:
    models = {"m": {"base_url": model.base_url}}
    async with running_stack(model, models=models, **PROFILES | {"api_key": "the-servers"}) as stack:
        await stack.complete("FINAL(x)")
    assert "the-servers" not in str(model.request_headers)


async def test_a_request_wins_over_a_profile(model: ScriptedModel) -> None:
    models = {"m": {"base_url": model.base_url, "temperature": 0.1, "top_p": 0.5}}
    async with running_stack(model, models=models, **PROFILES) as stack:
        await stack.complete("FINAL(x)", sampling=pb.Sampling(temperature=0.7))
    assert (model.requests[0]["temperature"], model.requests[0]["top_p"]) == (0.7, 0.5)


# --- by depth


@pytest.mark.parametrize(
    ("settings", "fields", "expected"),
    [
        ({"default_child_models": ("one", "two")}, {}, ["root-model", "one", "two", "two", "sub-model"]),
        ({}, {}, ["root-model", "sub-model", "sub-model", "sub-model", "sub-model"]),
        (
            {"default_child_models": ("one",)},
            {"child_models": ["own"]},
            ["root-model", "own", "own", "own", "sub-model"],
        ),
        ({"default_child_models": ("one",)}, {"sub_model": "s"}, ["root-model", "s", "s", "s", "s"]),
    ],
)
async def test_children_have_models_by_their_depth(
    model: ScriptedModel, settings: dict[str, Any], fields: dict[str, Any], expected: list[str]
) -> None:
    def reply(messages: Any) -> str:
        is_leaf = messages[0]["role"] == "user"
        return "leaf" if is_leaf else "```repl\nFINAL(rlm_query('q'))\n```"

    async with running_stack(model, **settings) as stack:
        events = await stack.play(reply, limits=limits_pb2.Limits(max_depth=3), **fields)
    assert events.answer == "leaf"
    assert [request["model"] for request in model.requests] == expected


async def test_code_may_name_another_model_and_an_unknown_one_is_an_error(model: ScriptedModel) -> None:
    models = {name: {"base_url": model.base_url} for name in ("a", "b")}
    code = (
        "try:\n    llm_query('q', model='c')\nexcept SubcallError as e:\n    FINAL(llm_query('q', model='b') + e.kind)"
    )
    async with running_stack(model, models=models, **PROFILES) as stack:
        events = await stack.complete(f"```repl\n{code}\n```", "sub:")
    assert events.answer == "sub:unknown_model"
    assert [request["model"] for request in model.requests] == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"model": "c"}, "model"), ({"child_models": ["a", "c"]}, "child_models[1]"), ({"sub_model": "c"}, "sub_model")],
)
async def test_a_request_for_a_model_without_profile_is_refused(
    model: ScriptedModel, fields: dict[str, Any], path: str
) -> None:
    async with running_stack(model, models={"a": {"base_url": model.base_url}}, **PROFILES) as stack:
        with pytest.raises(grpc.RpcError) as failure:
            await stack.complete("never", **fields)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{path}: there is no model 'c'; there are: a" in failure.value.details()


async def test_too_many_child_models_are_refused(model: ScriptedModel) -> None:
    async with running_stack(model) as stack:
        with pytest.raises(grpc.RpcError) as failure:
            await stack.complete("never", child_models=["m"] * 21)
    assert "child_models: has 21 models; at most 20" in failure.value.details()


async def test_the_listing_has_windows_prices_and_fallbacks(model: ScriptedModel) -> None:
    models = {
        "a": {
            "base_url": model.base_url,
            "window_tokens": 400_000,
            "max_output_tokens": 1000,
            "price": {"input": 1.25, "output": 10, "cached_input": 0.125},
            "fallbacks": ["b"],
        },
        "b": {"base_url": model.base_url},
    }
    async with running_stack(model, models=models, **PROFILES) as stack:
        listed = await stack.stub.ListModels(pb.ListModelsRequest())
    a, b = listed.models
    assert (a.name, a.context_window_tokens, a.max_output_tokens, list(a.fallbacks)) == ("a", 400_000, 1000, ["b"])
    assert (a.price.input, a.price.output, a.price.cached_input) == (1.25, 10, 0.125)
    assert (b.name, b.context_window_tokens, b.HasField("price")) == ("b", 0, False)
    assert (listed.default_model, listed.any_model_allowed) == ("a", False)


# --- rates


async def test_no_more_calls_run_at_once_than_a_profile_allows(model: ScriptedModel) -> None:
    models = {"m": {"base_url": model.base_url, "max_concurrent_calls": 2}}
    release = asyncio.Event()

    def reply(messages: Any) -> Any:
        if messages[0]["role"] == "user":
            return ScriptedReply("x", release=release)
        return "```repl\nFINAL(len(llm_query_batched(['q'] * 6)))\n```"

    async with running_stack(model, models=models, **PROFILES) as stack:
        playing = asyncio.create_task(stack.play(reply))
        await model.until_waiting(2)
        release.set()
        assert (await playing).answer == "6"
    assert model.most_concurrent == 2


async def test_waiting_for_others_does_not_use_up_a_calls_time(model: ScriptedModel) -> None:
    profile = {"base_url": model.base_url, "max_concurrent_calls": 1, "total_timeout_seconds": 0.6, "max_retries": 0}

    def reply(messages: Any) -> Any:
        if messages[0]["role"] == "system":
            return "```repl\nFINAL(sum(1 for r in llm_query_batched(['q'] * 8) if r))\n```"
        release = asyncio.Event()
        asyncio.get_running_loop().call_later(0.15, release.set)
        return ScriptedReply("x", release=release)

    async with running_stack(model, models={"m": profile}, **PROFILES) as stack:
        assert (await stack.play(reply)).answer == "8"


async def test_calls_beyond_the_rate_wait_for_their_turn() -> None:
    gate = Gate(requests_per_minute=600)
    for _ in range(600):
        async with gate.passing(1):
            pass
    start = asyncio.get_running_loop().time()
    async with gate.passing(1):
        waited = asyncio.get_running_loop().time() - start
    assert 0.05 < waited < 2


async def test_tokens_beyond_the_rate_wait_and_a_huge_call_counts_as_a_minutes_worth() -> None:
    gate = Gate(tokens_per_minute=6000)
    async with gate.passing(1_000_000):
        pass
    start = asyncio.get_running_loop().time()
    async with gate.passing(10):
        waited = asyncio.get_running_loop().time() - start
    assert 0.05 < waited < 2


async def test_a_call_that_is_cancelled_while_it_waits_leaves_its_place() -> None:
    gate = Gate(max_concurrent_calls=1)
    async with gate.passing(1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), gate.passing(1):
                pass
    async with asyncio.timeout(1), gate.passing(1):
        pass


# --- settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("provider = 'azure'", "Azure needs base_url"),
        ("api_version = '1'", "api_version is Azure's"),
        ("provider = 'other'", "models.m.provider is 'other'"),
        ("api_key = 'a'\napi_key_env = 'B'", "give one of api_key"),
        ("price = { input = 1 }", "models.m.price.output"),
        ("price = { input = -1, output = 1 }", "price must not be negative"),
        ("windw_tokens = 1", "no setting models.m.windw_tokens .*mean models.m.window_tokens"),
        ("window_tokens = 0", "window_tokens must be at least 1"),
        ("fallbacks = ['n']", "models.m.fallbacks names 'n', which has no profile"),
        ("fallbacks = ['m']", "models.m.fallbacks names the model itself"),
        ("temperature = 3", "temperature must be from 0 to 2"),
        ("requests_per_minute = 0", "requests_per_minute must be at least 1"),
        ("try_timeout_seconds = 0", "try_timeout_seconds must be more than 0"),
        ("max_retries = -1", "max_retries must not be negative"),
    ],
)
def test_a_profile_that_is_wrong_is_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "rlm.toml"
    file.write_text(f"[models.m]\n{text}\n")
    with pytest.raises(SettingsError, match=message):
        load(config_file=file, environment={}).settings()


def test_a_default_without_profile_or_endpoint_is_told() -> None:
    with pytest.raises(SettingsError, match="'s' is a default but has no profile"):
        Settings(models={"m": {}}, default_sub_model="s")  # type: ignore[dict-item]


def test_a_variable_for_a_key_that_is_not_set_is_told() -> None:
    settings = Settings(models={"m": {"api_key_env": "NOT_THERE"}})  # type: ignore[dict-item]
    with pytest.raises(SettingsError, match=r"models\.m\.api_key_env names NOT_THERE, which is not set"):
        ModelRegistry(settings, {})
    assert profile_key("m", settings.models["m"], {"NOT_THERE": "k"}) == "k"


def test_a_profile_is_shown_with_its_secrets_masked(tmp_path: Path) -> None:
    file = tmp_path / "rlm.toml"
    file.write_text(
        '[models."gpt-5.1"]\napi_key = "sesame"\nextra_headers = { "x-key" = "sesame" }\n'
        "price = { input = 1, output = 2 }"
    )
    configuration = load(config_file=file, environment={"RLM_MODELS__SMALL__WINDOW_TOKENS": "8000"})
    lines = list(showing.lines(configuration))
    assert "sesame" not in "\n".join(lines)
    assert f'models."gpt-5.1".price.input = 1  # {file}' in lines
    assert "models.small.window_tokens = 8000  # RLM_MODELS__SMALL__WINDOW_TOKENS" in lines
    assert configuration.settings().default_model == "gpt-5.1"


# --- keys that change


async def test_a_key_that_was_changed_in_its_file_is_used_without_a_restart(
    model: ScriptedModel, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("old\n")

    def reply(_: Any) -> Any:
        is_valid = model.request_headers[-1]["authorization"] == "Bearer new"
        return "FINAL(x)" if is_valid else ScriptedReply(status=401, error={"message": "this key is expired"})

    models = {"m": {"base_url": model.base_url, "api_key_file": key_file}}
    async with running_stack(model, models=models, **PROFILES) as stack:
        events = await stack.play(reply)
        assert (events.reason, events.finished.error) == (
            "MODEL_ERROR",
            "m: the endpoint answered with 401: this key is expired (check the server's API key)",
        )
        key_file.unlink()
        assert (await stack.play(reply)).reason == "MODEL_ERROR"
        key_file.write_text("new\n")
        assert (await stack.play(reply)).answer == "x"


@pytest.mark.parametrize("key", ["a\nb", "ключ", "\ufeffkey"])
def test_a_key_that_cannot_be_sent_is_told_and_not_shown(tmp_path: Path, key: str) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(key, encoding="utf-8")
    for fields in ({"api_key": key}, {"api_key_file": key_file}):
        with pytest.raises(SettingsError, match="has characters that no key has") as failure:
            Settings(default_model="m", **fields).resolved_api_key()  # type: ignore[arg-type]
        assert key not in str(failure.value)


def test_white_space_around_a_key_is_no_part_of_it(tmp_path: Path) -> None:
    assert Settings(default_model="m", api_key=" sesame\n").resolved_api_key() == "sesame"
    settings = Settings(models={"m": {"api_key_env": "K"}, "n": {"api_key": "sesame\n"}})  # type: ignore[dict-item]
    assert profile_key("m", settings.models["m"], {"K": "sesame\r\n"}) == "sesame"
    assert profile_key("n", settings.models["n"], {}) == "sesame"


@pytest.mark.parametrize("key", ["", "   "])
def test_an_empty_key_is_told(tmp_path: Path, key: str) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(key)
    with pytest.raises(SettingsError, match=r"models\.m\.api_key_file .* is empty"):
        ModelRegistry(Settings(models={"m": {"api_key_file": key_file}}), {})  # type: ignore[dict-item]
    with pytest.raises(SettingsError, match=r"models\.m\.api_key_env names K, which is not set"):
        ModelRegistry(Settings(models={"m": {"api_key_env": "K"}}), {"K": key})  # type: ignore[dict-item]
    file = tmp_path / "rlm.toml"
    file.write_text(f"[models.m]\napi_key = {key!r}\n")
    with pytest.raises(SettingsError, match=r"models\.m\.api_key is empty: give a key, or leave it out"):
        load(config_file=file, environment={}).settings()
