"""The Kubernetes manifests fit together, and fit the real programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rlm_api.rlm.v1 import completion_service_pb2 as rlm
from rlm_api.sandbox.v1 import execute_service_pb2 as sandbox
from rlm_server.configuration import load

from tests.deploy import manifests
from tests.support.command_lines import options, read

if TYPE_CHECKING:
    from pathlib import Path

SERVERS = ["rlm-server", "rlm-sandbox"]
PROGRAMS = {"rlm-server": "rlm", "rlm-sandbox": "rlm-sandbox"}
SERVICE_NAMES = {
    "rlm-server": rlm.DESCRIPTOR.services_by_name["CompletionService"].full_name,
    "rlm-sandbox": sandbox.DESCRIPTOR.services_by_name["ExecuteService"].full_name,
}


def deployment(name: str) -> dict[str, Any]:
    return manifests.base_objects("Deployment")[name]


def pod(name: str) -> dict[str, Any]:
    return dict(deployment(name)["spec"]["template"]["spec"])


def settings(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns what the real command line makes of a container's arguments and environment."""
    container = manifests.container(deployment(name))
    variables = manifests.literals(manifests.BASE) if "envFrom" in container else {}
    for one in container.get("env", ()):
        value = one.get("value")
        if value is None:
            field = one["valueFrom"]["resourceFieldRef"]
            assert field == {"containerName": name, "resource": "limits.cpu"}
            value = container["resources"]["limits"]["cpu"]
        variables[one["name"]] = value
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    return read([PROGRAMS[name], *manifests.expanded(container["args"], variables)])


def port_of(values: dict[str, Any]) -> int:
    (address,) = values["listen"]
    host, _, port = address.rpartition(":")
    assert host == "0.0.0.0"
    return int(port)


@pytest.mark.parametrize("name", SERVERS)
def test_the_program_takes_its_arguments_and_listens_on_the_containers_port(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings(name, monkeypatch)
    (port,) = manifests.container(deployment(name))["ports"]
    assert port == {"name": "grpc", "containerPort": port_of(values)}


def test_every_variable_of_the_sandbox_is_one_that_it_reads() -> None:
    known = {str(option.envvar) for option in options("rlm-sandbox serve").values()}
    assert {one["name"] for one in manifests.container(deployment("rlm-sandbox"))["env"]} <= known


def test_the_rlm_server_looks_for_the_sandbox_where_its_service_is(monkeypatch: pytest.MonkeyPatch) -> None:
    address = settings("rlm-server", monkeypatch)["sandbox"]
    found = re.fullmatch(r"dns:///([\w-]+):(\d+)", address)
    assert found
    service = manifests.base_objects("Service")[found[1]]
    (port,) = service["spec"]["ports"]
    assert port["port"] == int(found[2])
    assert service["spec"]["selector"] == deployment("rlm-sandbox")["spec"]["selector"]["matchLabels"]


def test_the_model_and_its_key_come_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    values = settings("rlm-server", monkeypatch)
    configured = load(environment=manifests.literals(manifests.BASE))
    assert (configured.value("default_model"), configured.value("default_sub_model")) == ("gpt-5", "gpt-5-mini")
    mounts = {one["name"]: one["mountPath"] for one in manifests.container(deployment("rlm-server"))["volumeMounts"]}
    (secret,) = (one for one in pod("rlm-server")["volumes"] if "secret" in one)
    (item,) = secret["secret"]["items"]
    assert str(values["api_key_file"]) == f"{mounts[secret['name']]}/{item['path']}"
    assert not manifests.base_objects("Secret")


@pytest.mark.parametrize("name", SERVERS)
def test_each_server_has_a_service_with_and_one_without_an_address_of_its_own(name: str) -> None:
    services = manifests.base_objects("Service")
    for service, headless in ((name, False), (f"{name}-headless", True)):
        spec = services[service]["spec"]
        assert spec["selector"] == deployment(name)["spec"]["selector"]["matchLabels"]
        assert (spec.get("clusterIP") == "None") is headless
        (port,) = spec["ports"]
        assert port["targetPort"] == "grpc"


@pytest.mark.parametrize("name", SERVERS)
def test_the_probes_ask_for_a_service_that_the_server_has(name: str) -> None:
    container = manifests.container(deployment(name))
    (port,) = container["ports"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        question = container[probe]["grpc"]
        assert question["port"] == port["containerPort"]
        assert question.get("service", "") in ("", SERVICE_NAMES[name])


@pytest.mark.parametrize("name", SERVERS)
def test_a_pod_is_given_the_time_that_its_server_takes_to_drain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = manifests.container(deployment(name))["lifecycle"]["preStop"]["exec"]["command"]
    assert pause[0] == "sleep"
    assert pod(name)["terminationGracePeriodSeconds"] > float(pause[1]) + settings(name, monkeypatch)["grace"]


def test_the_sandbox_drains_at_least_as_long_as_the_rlm_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings("rlm-sandbox", monkeypatch)["grace"] >= settings("rlm-server", monkeypatch)["grace"]


@pytest.mark.parametrize("name", SERVERS)
def test_a_pod_has_no_more_rights_than_it_needs(name: str) -> None:
    spec, container = pod(name), manifests.container(deployment(name))
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


def test_the_sandbox_can_reach_nothing_and_be_reached_by_rlm_servers_only() -> None:
    policies = manifests.base_objects("NetworkPolicy")
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policy = policies["rlm-sandbox"]["spec"]
    assert policy["podSelector"]["matchLabels"] == deployment("rlm-sandbox")["spec"]["selector"]["matchLabels"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    rlm_servers = deployment("rlm-server")["spec"]["selector"]
    assert rule == {"from": [{"podSelector": rlm_servers}], "ports": [{"port": "grpc"}]}


def test_the_rlm_server_may_reach_the_sandbox() -> None:
    (rule,) = (
        rule
        for rule in manifests.base_objects("NetworkPolicy")["rlm-server"]["spec"]["egress"]
        if {"podSelector": deployment("rlm-sandbox")["spec"]["selector"]} in rule.get("to", ())
    )
    (port,) = manifests.container(deployment("rlm-sandbox"))["ports"]
    assert rule["ports"] == [{"port": port["containerPort"]}]


@pytest.mark.parametrize("kind", ["HorizontalPodAutoscaler", "PodDisruptionBudget"])
def test_scaling_and_disruption_are_bounded_for_both(kind: str) -> None:
    found = manifests.base_objects(kind)
    assert set(found) == set(SERVERS)
    for name, one in found.items():
        if kind == "PodDisruptionBudget":
            assert one["spec"]["selector"] == deployment(name)["spec"]["selector"]
        else:
            assert one["spec"]["scaleTargetRef"]["name"] == name
            assert "replicas" not in deployment(name)["spec"], "each `kubectl apply` would undo the scaling"


@pytest.mark.parametrize("directory", [manifests.BASE, *manifests.OVERLAYS], ids=lambda path: path.name)
def test_kustomize_builds_it(directory: Path) -> None:
    if program := shutil.which("kustomize"):
        command = [program, "build", directory]
    elif program := shutil.which("kubectl"):
        command = [program, "kustomize", directory]
    else:
        pytest.skip("neither kustomize nor kubectl is on the path")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for name in SERVERS:
        (one,) = (one for one in built if one["kind"] == "Deployment" and one["metadata"]["name"] == name)
        assert one["metadata"]["namespace"] == "rlm"
        container = manifests.container(one)
        maps = {found["metadata"]["name"]: found["data"] for found in built if found["kind"] == "ConfigMap"}
        variables: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            variables |= maps[source["configMapRef"]["name"]]
        values = read([PROGRAMS[name], *manifests.expanded(container["args"], variables)])
        if name == "rlm-server":
            demo = directory.name == "demo"
            assert (load(environment=variables).value("default_model") == "demo-model") is demo
            assert (values["api_key_file"] is None) is demo
