"""`rlm config show`, and configuration files of the other commands, as processes."""

from __future__ import annotations

import json
import tomllib

import pytest


def test_the_effective_settings_are_shown_with_their_origins(run_rlm, tmp_path):
    file = tmp_path / "rlm.toml"
    file.write_text('base_url = "http://127.0.0.1:1/v1"\ndefault_model = "m"\n[default_limits]\nmax_depth = 2\n')
    arguments = ("config", "show", "--sandbox", "local", "--set", "grace_seconds=5")
    done = run_rlm(*arguments, RLM_CONFIG=str(file), RLM_API_KEY="sesame")
    assert done.returncode == 0
    assert "sesame" not in done.stdout
    lines = done.stdout.splitlines()
    assert f"default_limits.max_depth = 2  # {file}" in lines
    assert 'sandbox = "local"  # --sandbox' in lines
    assert "grace_seconds = 5  # --set" in lines
    assert 'api_key = "********"  # RLM_API_KEY' in lines
    assert "model_max_retries = 2  # default" in lines
    assert tomllib.loads(done.stdout)["default_model"] == "m"


def test_as_json_each_setting_has_name_value_and_origin(run_rlm):
    done = run_rlm("config", "show", "--json")
    found = {one["name"]: (one["value"], one["origin"]) for one in json.loads(done.stdout)}
    assert found["default_model"] == ("demo-model", "the demo model, as no other endpoint is named")
    assert found["listen"] == (["127.0.0.1:50051"], "default")


@pytest.mark.parametrize("command", [("config", "show"), ("serve",), ("complete", "--context", "-", "q")])
def test_a_setting_that_does_not_exist_is_bad_input(run_rlm, command):
    done = run_rlm(*command, "--set", "default_mode=x", stdin=b"text")
    assert done.returncode == 2
    assert done.stderr == "rlm: there is no setting default_mode (--set); did you mean default_model?\n"


def test_the_doctor_tells_of_settings_that_do_not_work(run_rlm):
    done = run_rlm("doctor", "--listen", "127.0.0.1:0", RLM_DEFAULT_MODE="m")
    assert done.returncode == 1
    assert "FAILED  settings: there is no setting default_mode (RLM_DEFAULT_MODE)" in done.stdout


def test_complete_takes_its_limits_from_the_file_where_no_flag_says_otherwise(run_rlm, tmp_path):
    file = tmp_path / "rlm.toml"
    file.write_text('sandbox = "local"\n[default_limits]\nmax_iterations = 7\nmax_depth = 0\n')
    done = run_rlm(
        *("complete", "--context", "-", "--json", "--config", str(file), "--max-depth", "2", "Which lines have x?"),
        stdin=b"x\ny\n",
    )
    assert done.returncode == 0, done.stderr
    limits = json.loads(done.stdout.splitlines()[0])["started"]["limits"]
    assert (limits["maxIterations"], limits["maxDepth"]) == (7, 2)
