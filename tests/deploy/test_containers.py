"""The Dockerfiles and the compose file fit the tree and the real programs."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from typing import Any

import pytest
from rlm_server.cli.endpoint import choose_endpoint
from rlm_server.configuration import load
from rlm_server.settings import Settings

from tests.deploy import manifests
from tests.deploy.test_kubernetes import PROGRAMS, SERVERS, SERVICE_NAMES
from tests.support.command_lines import read
from tests.support.documents import ROOT

COMMANDS = {"rlm-server": ["rlm"], "rlm-sandbox": ["/opt/entrypoint.sh"]}


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_copied_is_in_the_tree_and_not_ignored(name: str) -> None:
    ignored = (ROOT / f"deploy/docker/{name}.Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    taken = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for instruction, rest in manifests.dockerfile(name):
        if instruction == "COPY" and "--from=" not in rest:
            for source in manifests.words(rest)[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, one) or source.startswith(f"{one}/") for one in taken), source


@pytest.mark.parametrize("name", SERVERS)
def test_the_image_runs_the_server_as_nobody_in_particular_on_the_exposed_port(name: str) -> None:
    instructions = manifests.dockerfile(name)
    last_stage = instructions[max(i for i, (word, _) in enumerate(instructions) if word == "FROM") :]
    assert ("USER", "10001:10001") in last_stage
    assert manifests.json_words(last_stage, "ENTRYPOINT") == COMMANDS[name]
    values = read([PROGRAMS[name], *manifests.json_words(last_stage, "CMD")])
    (address,) = values["listen"]
    assert ("EXPOSE", address.rpartition(":")[2]) in last_stage
    check = manifests.json_words(last_stage, "HEALTHCHECK")
    assert check[-2:] == [f"127.0.0.1:{address.rpartition(':')[2]}", SERVICE_NAMES[name]]


@pytest.mark.parametrize("name", SERVERS)
def test_every_distribution_that_the_image_needs_is_built(name: str) -> None:
    needed = {"rlm-server": "rlm_server", "rlm-sandbox": "sandbox_server"}[name]
    directories = {"rlm-api": "clients/python-api", "rlm-client": "clients/python", "rlm-common": "common"}
    project = tomllib.loads((ROOT / needed / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", one)[0] for one in project["dependencies"]}
    wanted = {directory for name, directory in directories.items() if name in names} | {needed}
    (build,) = (rest for word, rest in manifests.dockerfile(name) if word == "RUN" and "pip wheel" in rest)
    built = set(re.findall(r"\./([\w/-]+)", build))
    # The common distribution needs no other; the client needs the stubs, which are among those that are wanted.
    assert built == wanted


@pytest.mark.parametrize(
    ("lock", "absent"),
    [("rlm_server.lock", ("wasmtime", "componentize-py")), ("sandbox_server.lock", ("openai", "httpx", "starlette"))],
)
def test_each_image_lacks_what_is_the_other_ones_business(lock: str, absent: tuple[str, ...]) -> None:
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    names = set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))
    assert names
    assert not names & set(absent)


def values_of(service: str, **variables: str) -> dict[str, Any]:
    return read([PROGRAMS[service], *manifests.compose_services(variables)[service]["command"]])


def test_compose_runs_both_servers_with_arguments_that_they_take() -> None:
    services = manifests.compose_services()
    assert set(services) == set(SERVERS)
    (address,) = values_of("rlm-sandbox")["listen"]
    port = address.rpartition(":")[2]
    assert values_of("rlm-server")["sandbox"] == f"dns:///rlm-sandbox:{port}"
    for name, service in services.items():
        dockerfile = (manifests.DEPLOY / service["build"]["context"]).resolve() / service["build"]["dockerfile"]
        assert dockerfile == ROOT / f"deploy/docker/{name}.Dockerfile"


@pytest.mark.parametrize(
    ("variables", "model", "is_demo"),
    [
        ({}, "demo-model", True),
        ({"RLM_MODEL": "gpt-5", "OPENAI_API_KEY": "key"}, "gpt-5", False),
        ({"RLM_MODEL": "qwen", "OPENAI_BASE_URL": "http://model:8000/v1"}, "qwen", False),
    ],
)
def test_compose_asks_the_model_that_the_variables_name(variables: dict[str, str], model: str, is_demo: bool) -> None:
    service = manifests.compose_services(variables)["rlm-server"]
    environment = {name: value or "" for name, value in service["environment"].items()}
    flags = {"--model": ("default_model", values_of("rlm-server", **variables)["model"])}
    endpoint = choose_endpoint(load(environment=environment, flags=flags))
    assert (endpoint.settings.default_model, endpoint.is_demo) == (model, is_demo)


def test_compose_keeps_the_sandbox_from_the_world_and_the_world_from_the_server() -> None:
    services = manifests.compose_services()
    (text,) = manifests.objects(manifests.DEPLOY / "compose.yaml")
    assert services["rlm-sandbox"]["networks"] == ["inner"]
    assert text["networks"]["inner"] == {"internal": True}
    assert "ports" not in services["rlm-sandbox"]
    assert "environment" not in services["rlm-sandbox"]
    assert all(port.startswith("127.0.0.1:") for port in services["rlm-server"]["ports"])
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVERS)
def test_compose_gives_a_server_time_to_drain(name: str) -> None:
    seconds = float(manifests.compose_services()[name]["stop_grace_period"].removesuffix("s"))
    grace = values_of(name)["grace"]
    assert seconds > (Settings(default_model="m").grace_seconds if grace is None else grace)
