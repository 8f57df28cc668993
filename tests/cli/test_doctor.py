"""`rlm doctor` and `rlm demo-model`, as processes."""

from __future__ import annotations

import socket

import openai
import pytest
from rlm_server.cli import checks
from rlm_server.cli.endpoint import Endpoint, choose_endpoint
from rlm_server.configuration import load
from rlm_server.demo_model import DemoModelSettings
from rlm_server.demo_model.server import running_demo_model


def endpoint(base_url: str | None = None, model: str = "demo-model", api_key: str | None = None) -> Endpoint:
    flags = {"--base-url": ("base_url", base_url), "--model": ("default_model", model), "--key": ("api_key", api_key)}
    return choose_endpoint(load(environment={}, flags=flags))


def test_python_is_named():
    assert checks.python().state is checks.State.OK


def test_a_free_port_is_fine():
    assert checks.port("127.0.0.1:0").state is checks.State.OK


def test_a_port_that_is_taken_is_told_with_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = checks.port(f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.state is checks.State.FAILED
    assert "--listen" in result.remedy


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "127.0.0.1:http"])
def test_an_address_that_is_none_is_told(address):
    assert checks.port(address).state is checks.State.FAILED


def test_no_key_means_the_demo_model_and_is_noted():
    result = checks.key(None, is_demo=True)
    assert result.state is checks.State.NOTE
    assert "no language model" in result.finding


def test_a_key_is_never_shown():
    result = checks.key("sesame", is_demo=False)
    assert result.state is checks.State.OK
    assert "sesame" not in result.finding


async def test_an_endpoint_that_has_the_model_is_fine():
    async with running_demo_model() as running:
        (result,) = await checks.models(endpoint(running.base_url), {})
    assert result.state is checks.State.OK


async def test_an_endpoint_without_the_model_is_noted_with_what_it_has():
    async with running_demo_model() as running:
        (result,) = await checks.models(endpoint(running.base_url, "gpt-9"), {})
    assert result.state is checks.State.NOTE
    assert "demo-model" in result.remedy


async def test_an_endpoint_that_refuses_the_key_is_told():
    async with running_demo_model(DemoModelSettings(api_key="right")) as running:
        (result,) = await checks.models(endpoint(running.base_url, api_key="wrong"), {})
    assert result.state is checks.State.FAILED
    assert "refuses the key" in result.finding


async def test_an_endpoint_that_is_not_there_is_told():
    (result,) = await checks.models(endpoint("http://127.0.0.1:1/v1", "m"), {})
    assert result.state is checks.State.FAILED
    assert "--base-url" in result.remedy


async def test_each_profile_is_checked(tmp_path):
    file = tmp_path / "rlm.toml"
    async with running_demo_model(DemoModelSettings(api_key="right")) as running:
        file.write_text(f"""
            [models.good]
            model = "demo-model"
            base_url = "{running.base_url}"
            api_key_env = "RIGHT"
            price = {{ input = 1, output = 2 }}
            [models.wrong-key]
            base_url = "{running.base_url}"
            api_key = "wrong"
            price = {{ input = 1, output = 2 }}
            [models.no-key]
            base_url = "{running.base_url}"
            api_key_env = "MISSING"
        """)
        chosen = choose_endpoint(load(config_file=file, environment={}))
        results = await checks.models(chosen, {"RIGHT": "right"})
    assert [(result.name, result.state.name) for result in results] == [
        ("models.good", "OK"),
        ("models.wrong-key", "FAILED"),
        ("models.no-key", "FAILED"),
    ]
    assert "MISSING, which is not set" in results[2].finding


def test_a_taken_port_fails_the_doctor(run_rlm):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_rlm("doctor", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "FAILED  port" in done.stdout
    assert "ok      python" in done.stdout


def test_the_demo_model_serves_until_it_is_told_to_end(start_rlm):
    process = start_rlm("demo-model", "--listen", "127.0.0.1:0", "--behaviour", "chunk_chars=5")
    started = process.stderr.readline()
    assert "a stand-in and no language model" in started
    base_url = started.partition("base_url=")[2].split()[0]
    with openai.OpenAI(base_url=base_url, api_key="any") as client:
        assert client.models.list().data[0].id == "demo-model"
    process.terminate()
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("arguments", [["--listen", "nonsense"], ["--behaviour", "colour=red"]])
def test_a_bad_command_line_of_the_demo_model_is_told(run_rlm, arguments):
    done = run_rlm("demo-model", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("rlm: ")
    assert "Traceback" not in done.stderr


def test_a_demo_model_on_a_taken_port_is_told(run_rlm):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_rlm("demo-model", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 3
    assert "cannot listen on" in done.stderr
