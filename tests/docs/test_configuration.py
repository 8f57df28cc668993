"""docs/configuration.md and docs/sandbox.md list exactly the settings that there are, with their defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.engine.limits import GREATEST_LIMITS, CompletionLimits
from rlm_server.executors import child_process
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS
from rlm_server.settings import Settings as RlmSettings
from sandbox_server.settings import DEFAULT_LISTEN
from sandbox_server.settings import Settings as SandboxSettings
from sandbox_server.worker import process as worker_process

from tests.support.command_lines import all_commands, options, read
from tests.support.documents import ROOT, tables

PAGE = ROOT / "docs" / "configuration.md"

UNSAID = {
    # Flags whose default the program itself works out; the page says what comes of it.
    "rlm serve": {
        "--listen": DEFAULT_LISTEN_ADDRESS,
        "--sandbox": "a child process",
        "--model": "see [usage](usage.md#which-model-answers)",
        "--sub-model": "the root's",
        "--base-url": "OpenAI's",
        "--api-key-file": "",
        "--prompts-dir": "",
        "--max-depth": str(CompletionLimits().max_depth),
        "--max-iterations": str(CompletionLimits().max_iterations),
        "--max-subcalls": str(CompletionLimits().max_subcalls),
        "--timeout": f"{CompletionLimits().wall_time_seconds:g}",
    },
    "rlm-sandbox serve": {"--listen": DEFAULT_LISTEN},
}


@pytest.mark.parametrize("server", ["rlm serve", "rlm-sandbox serve"])
def test_each_flag_of_a_server_is_there_with_its_variable_and_default(server: str) -> None:
    table = next(tables(PAGE, server))
    listed = {flag: (variable, default) for flag, variable, default, _ in table[1:]}
    unsaid = UNSAID[server]
    real = {}
    for flag, option in options(server).items():
        default = unsaid[flag] if flag in unsaid else str(getattr(option.default, "value", option.default))
        assert flag not in unsaid or option.default is None, f"{flag} has a default of its own"
        real[flag] = (str(option.envvar or ""), default)
    assert listed == real


def test_each_flag_of_the_other_commands_is_there() -> None:
    table = next(tables(PAGE, "The other commands"))
    listed = {command: sorted(flags.split(", ")) for command, flags in table[1:]}
    others = [name for name in all_commands() if not name.endswith(" serve")]
    assert listed == {name: sorted(options(name)) for name in others}


def test_each_setting_without_a_flag_is_there_with_its_default() -> None:
    listed = {name: default for name, default, _ in list(tables(PAGE, "rlm serve"))[1][1:]}
    said = {
        "allowed_models": (None, "any"),
        "stand_in_models": ((), "none"),
        "default_limits": (CompletionLimits(), "below"),
        "max_limits": (GREATEST_LIMITS, "below"),
        "data_dir": (None, "the temporary directory"),
    }
    with_flags = {
        *("default_model", "default_sub_model", "listen", "sandbox", "base_url", "api_key", "grace_seconds"),
        *("prompts_dir", "default_prompts"),
    }
    settings = RlmSettings(default_model="m")
    real = {}
    for field in dataclasses.fields(RlmSettings):
        if field.name not in with_flags:
            value = getattr(settings, field.name)
            real[field.name] = said[field.name][1] if field.name in said else str(value)
            assert field.name not in said or value == said[field.name][0]
    assert listed == real


def test_the_settings_of_the_sandbox_server_are_all_spoken_of() -> None:
    with_flags = {
        *("listen", "workers", "max_sessions", "max_memory_bytes", "max_blob_cache_bytes", "grace_seconds"),
        *("max_client_sessions", "max_client_memory_bytes", "max_client_blob_bytes"),
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
        return "what is left" if last == "wall_time" and limits is not GREATEST_LIMITS else "the sandbox's"
    return f"{value:g} s" if last == "wall_time" else str(value)


def test_the_limits_of_a_completion_are_there_with_defaults_and_greatest_values() -> None:
    table = next(tables(PAGE, "Limits of a completion"))
    names = [field.name for field in limits_pb2.Limits.DESCRIPTOR.fields if field.name != "cell"]
    names += [f"cell.{field.name}" for field in limits_pb2.CellLimits.DESCRIPTOR.fields]
    served = [name for name in names if name != "max_cost_microdollars"]
    assert [row[:3] for row in table[1:]] == [
        [name, limit(CompletionLimits(), name), limit(GREATEST_LIMITS, name)] for name in served
    ]


def test_the_limits_of_the_sandbox_are_there_with_defaults_and_greatest_values() -> None:
    table = next(tables(ROOT / "docs" / "sandbox.md", "Limits"))
    settings = SandboxSettings(cache_directory=ROOT)
    defaults, greatest = settings.default_limits, settings.max_limits
    expected = [[name, str(getattr(defaults, name)), str(getattr(greatest, name))] for name in ("fuel", "memory_bytes")]
    expected.append(["wall_time", f"{defaults.wall_time_seconds:g} s", f"{greatest.wall_time_seconds:g} s"])
    expected.append(["output_bytes", str(defaults.output_bytes), str(greatest.output_bytes)])
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
