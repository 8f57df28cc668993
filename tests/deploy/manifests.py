"""Reads the files in deploy/."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.documents import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
OVERLAYS = sorted(path.parent for path in (DEPLOY / "kubernetes" / "overlays").glob("*/kustomization.yaml"))

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def objects(path: Path) -> list[dict[str, Any]]:
    """Returns the objects in a file of manifests."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def kustomization(directory: Path) -> dict[str, Any]:
    """Returns a kustomization."""
    (found,) = objects(directory / "kustomization.yaml")
    return found


def base_objects(kind: str) -> dict[str, dict[str, Any]]:
    """Returns the objects of a kind in the base, by name."""
    found = [one for name in kustomization(BASE)["resources"] for one in objects(BASE / name)]
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    """Returns the one container of a deployment."""
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def literals(directory: Path) -> dict[str, str]:
    """Returns what a kustomization puts into its config maps."""
    return dict(
        one.split("=", 1)
        for generator in kustomization(directory)["configMapGenerator"]
        for one in generator["literals"]
    )


def expanded(words: list[str], variables: dict[str, str]) -> list[str]:
    """Returns a container's arguments as the kubelet expands them."""
    return [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word) for word in words]


def compose_services(variables: dict[str, str] | None = None) -> dict[str, Any]:
    """Returns the services of the compose file, with variables put in."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    text = _VARIABLE.sub(lambda found: (variables or {}).get(found[1]) or found[2], text)
    return dict(yaml.safe_load(text)["services"])


def dockerfile(name: str) -> list[tuple[str, str]]:
    """Returns the instructions of a Dockerfile, as name and rest."""
    text = (DEPLOY / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    found = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in found]


def json_words(instructions: list[tuple[str, str]], name: str) -> list[str]:
    """Returns the words of the last instruction of that name, which has them as a JSON list at its end."""
    rest = [text for word, text in instructions if word == name][-1]
    return [str(word) for word in yaml.safe_load(rest[rest.index("[") :])]


def words(text: str) -> list[str]:
    """Returns the words of an instruction without its flags."""
    return [word for word in shlex.split(text) if not word.startswith("--")]
