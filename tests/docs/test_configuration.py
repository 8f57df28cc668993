"""docs/configuration.md and docs/sandbox.md list exactly the settings that there are, with their defaults."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rlm_api.rlm.v1 import limits_pb2
from rlm_server.cli.configuration import FLAGS
from rlm_server.configuration import load
from rlm_server.engine.limits import GREATEST_LIMITS, CompletionLimits
from rlm_server.executors import child_process
from rlm_server.models.profile import ModelProfile
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS
from rlm_server.settings import Settings as RlmSettings
from sandbox_server.settings import DEFAULT_LISTEN
from sandbox_server.settings import Settings as SandboxSettings
from sandbox_server.worker import process as worker_process

from tests.support.command_lines import all_commands, options, read
from tests.support.documents import ROOT, code_blocks, tables

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PAGE = ROOT / "docs" / "configuration.md"

UNSAID = {
    "--listen": DEFAULT_LISTEN,
    "--default-limit": "see [limits](sandbox.md#limits)",
    "--max-limit": "see [limits](sandbox.md#limits)",
}
"""Flags whose default the sandbox server itself works out."""


def test_each_flag_of_the_rlm_server_is_there_with_its_setting() -> None:
    listed = {flag: setting for flag, setting, _ in next(tables(PAGE, "rlm serve"))[1:]}
    assert listed == FLAGS | {"--config": "", "--set": "any"}
    for flag, option in options("rlm serve").items():
        assert flag in listed
        assert option.default is None, f"{flag} has a default of its own"


def test_each_setting_of_the_rlm_server_is_there_with_its_default() -> None:
    listed = {name: default for name, default, _ in next(tables(PAGE, "Settings"))[1:]}
    said = {
        "default_model": ("m", "see [usage](usage.md#which-model-answers)"),
        "listen": ((DEFAULT_LISTEN_ADDRESS,), DEFAULT_LISTEN_ADDRESS),
        "sandbox": (None, "a child process"),
        "base_url": (None, "OpenAI's"),
        "default_sub_model": (None, "the root's"),
        "default_child_models": ((), "the sub-calls'"),
        "models": ({}, "none"),
        "allowed_models": (None, "those of models; any if there is a base_url, a key, or no profile"),
        "stand_in_models": ((), "none"),
        "default_limits": (CompletionLimits(), "[below](#limits-of-a-completion)"),
        "max_limits": (GREATEST_LIMITS, "[below](#limits-of-a-completion)"),
    }
    settings = RlmSettings(default_model="m")
    real = {}
    for field in dataclasses.fields(RlmSettings):
        value = getattr(settings, field.name)
        real[field.name] = said[field.name][1] if field.name in said else "none" if value is None else str(value)
        assert field.name not in said or value == said[field.name][0]
    assert listed == real


def test_the_settings_of_the_example_file_exist(tmp_path: Path) -> None:
    first, second = code_blocks(PAGE, "toml")
    file = tmp_path / "rlm.toml"
    file.write_text(first.text, encoding="utf-8")
    assert load(config_file=file, environment={}).settings().default_limits.max_iterations == 20
    file.write_text(second.text, encoding="utf-8")
    settings = load(config_file=file, environment={}).settings()
    assert (settings.default_model, settings.models["big"].fallbacks) == ("big", ("azure",))


def test_each_field_of_a_profile_is_there_with_its_default() -> None:
    listed = {name: default for name, default, _ in next(tables(PAGE, "Models"))[1:]}
    profile = ModelProfile()
    assert set(listed) == {field.name for field in dataclasses.fields(ModelProfile)}
    for name, default in listed.items():
        value = getattr(profile, name)
        assert value in (None, ()) or str(value) == default


def test_each_flag_of_the_sandbox_server_is_there_with_its_variable_and_default() -> None:
    table = next(tables(PAGE, "rlm-sandbox serve"))
    listed = {flag: (variable, default) for flag, variable, default, _ in table[1:]}
    real = {}
    for flag, option in options("rlm-sandbox serve").items():
        default = UNSAID[flag] if flag in UNSAID else str(getattr(option.default, "value", option.default))
        assert flag not in UNSAID or option.default is None, f"{flag} has a default of its own"
        real[flag] = (str(option.envvar or ""), default)
    assert listed == real


def test_each_flag_of_the_other_commands_is_there() -> None:
    table = next(tables(PAGE, "The other commands"))
    listed = {command: sorted(flags.split(", ")) if flags else [] for command, flags in table[1:]}
    others = [name for name in all_commands() if not name.endswith(" serve")]
    assert listed == {name: sorted(options(name)) for name in others}


def test_the_settings_of_the_sandbox_server_are_all_spoken_of() -> None:
    with_flags = {
        *("listen", "workers", "max_sessions", "max_memory_bytes", "max_blob_cache_bytes", "grace_seconds"),
        *("max_client_sessions", "max_client_memory_bytes", "max_client_blob_bytes", "default_limits", "max_limits"),
        "memory_reserve_bytes",
    }
    text = PAGE.read_text(encoding="utf-8")
    for field in dataclasses.fields(SandboxSettings):
        assert field.name in with_flags or f"`{field.name}`" in text


def test_several_addresses_go_into_the_variable_with_spaces_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_SANDBOX_LISTEN", "127.0.0.1:1 unix:/tmp/x")
    assert read(["rlm-sandbox", "serve"])["listen"] == ["127.0.0.1:1", "unix:/tmp/x"]


def test_the_variables_that_pass_a_process_line_are_named() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Environment variables")[2].partition("\n## ")[0]
    sentence = " ".join(text.split())
    child = child_process._PASSED_ENVIRONMENT
    assert f"gets {', '.join(f'`{name}`' for name in child[:-1])} and `{child[-1]}` and nothing else" in sentence
    worker = worker_process._PASSED_ENVIRONMENT
    assert f"workers get {', '.join(f'`{name}`' for name in worker[:-1])} and `{worker[-1]}`" in sentence


def limit(limits: Any, name: str) -> str:
    """Returns a limit of a completion, as the page writes it."""
    part, _, last = name.rpartition(".")
    owner = limits.cell if part == "cell" else limits
    value = getattr(owner, "wall_time_seconds" if last == "wall_time" else last)
    if value is None:
        return "unlimited"
    if part == "cell" and not value:
        by_need = {"wall_time": "what is left", "memory_bytes": "by the context"}
        return "the sandbox's" if limits is GREATEST_LIMITS else by_need.get(last, "the sandbox's")
    return f"{value:g} s" if last == "wall_time" else str(value)


def test_the_limits_of_a_completion_are_there_with_defaults_and_greatest_values() -> None:
    table = next(tables(PAGE, "Limits of a completion"))
    names = [field.name for field in limits_pb2.Limits.DESCRIPTOR.fields if field.name != "cell"]
    names += [f"cell.{field.name}" for field in limits_pb2.CellLimits.DESCRIPTOR.fields]
    assert [row[:3] for row in table[1:]] == [
        [name, limit(CompletionLimits(), name), limit(GREATEST_LIMITS, name)] for name in names
    ]


def test_the_limits_of_the_sandbox_are_there_with_defaults_and_greatest_values() -> None:
    table = next(tables(ROOT / "docs" / "sandbox.md", "Limits"))
    settings = SandboxSettings(cache_directory=ROOT)
    defaults, greatest = settings.default_limits, settings.max_limits
    expected = [[name, str(getattr(defaults, name)), str(getattr(greatest, name))] for name in ("fuel", "memory_bytes")]
    expected.append(["wall_time", f"{defaults.wall_time_seconds:g} s", f"{greatest.wall_time_seconds:g} s"])
    expected += [
        [name, str(getattr(defaults, name)), str(getattr(greatest, name))] for name in ("output_bytes", "scratch_bytes")
    ]
    assert [row[:3] for row in table[1:]] == expected


def test_the_cache_directory_is_chosen_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox_server.image.cache import default_cache_directory

    monkeypatch.setenv("RLM_SANDBOX_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert str(default_cache_directory()) == "/a"
    monkeypatch.delenv("RLM_SANDBOX_CACHE")
    assert str(default_cache_directory()) == "/b/rlm-sandbox"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_directory().parts[-2:] == (".cache", "rlm-sandbox")
