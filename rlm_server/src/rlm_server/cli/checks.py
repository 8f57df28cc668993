"""What `rlm doctor` checks."""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import openai

from rlm_server.cli.endpoint import started
from rlm_server.masking import without_secrets
from rlm_server.models.openai_endpoint import OpenAIEndpoint
from rlm_server.models.profile import ModelProfile
from rlm_server.models.registry import endpoint_options
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlm_server.cli.endpoint import Endpoint
    from rlm_server.models.openai_endpoint import EndpointOptions

_OLDEST_PYTHON = (3, 11, 0)
_SANDBOX_CHECK_SECONDS = 120
_ENDPOINT_CHECK_SECONDS = 15


class State(enum.Enum):
    """What a check found."""

    OK = "ok"
    """It works."""
    NOTE = "note"
    """It works, but not as one might think."""
    FAILED = "FAILED"
    """It does not work, and it is essential."""


@dataclass(frozen=True)
class Result:
    """What a check found.

    Args:
        name: what was checked.
        state: whether it works.
        finding: what was seen.
        remedy: how to mend it, or empty.
    """

    name: str
    state: State
    finding: str
    remedy: str = ""


def python() -> Result:
    """Checks the interpreter."""
    version = sys.version_info[:3]
    text = ".".join(map(str, version))
    if version < _OLDEST_PYTHON:
        return Result("python", State.FAILED, text, "Install Python 3.11 or later and run `make setup` with it.")
    return Result("python", State.OK, text)


def port(address: str) -> Result:
    """Checks that an address, `HOST:PORT`, can be listened on."""
    host, _, number = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(number)))
    except (OSError, ValueError, OverflowError) as error:
        remedy = "Stop what listens there (`ss -ltnp` names it), or give `rlm serve --listen` another address."
        return Result("port", State.FAILED, f"{address} cannot be listened on: {error}", remedy)
    return Result("port", State.OK, f"{address} is free")


def sandbox() -> Result:
    """Checks the sandbox server with its own doctor."""
    if importlib.util.find_spec("sandbox_server") is None:
        remedy = "Install it (`make setup`), or name a running one with --sandbox ADDRESS."
        return Result("sandbox", State.FAILED, "the sandbox server is not installed", remedy)
    command = [sys.executable, "-m", "sandbox_server", "doctor", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=_SANDBOX_CHECK_SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        remedy = f"Run `{' '.join(command)}` to see where it hangs."
        return Result("sandbox", State.FAILED, f"no result in {_SANDBOX_CHECK_SECONDS} s", remedy)
    if run.returncode != 0:
        said = (run.stderr or run.stdout).strip().splitlines()
        remedy = f"Run `{' '.join(command)}` for the whole story."
        return Result("sandbox", State.FAILED, said[-1] if said else f"exit code {run.returncode}", remedy)
    try:
        found = json.loads(run.stdout)
    except ValueError:
        return Result("sandbox", State.OK, "its doctor finds nothing amiss")
    return Result("sandbox", State.OK, json.dumps(found, ensure_ascii=False)[:200])


def key(value: str | None, *, is_demo: bool) -> Result:
    """Checks that there is a key."""
    if is_demo:
        remedy = "Set OPENAI_API_KEY, or give --base-url and --model, for a real one."
        return Result("key", State.NOTE, "none: the demo model answers, which is no language model", remedy)
    if value is None:
        return Result("key", State.NOTE, "none; that is fine if the endpoint needs none", "Else set OPENAI_API_KEY.")
    return Result("key", State.OK, f"there, {len(value)} characters")


async def models(chosen: Endpoint, environment: Mapping[str, str]) -> list[Result]:
    """Checks that the endpoint of each profile answers and has its model, and the server's own one where it is used."""
    results = []
    async with started(chosen) as settings:
        defaults = (settings.default_model, settings.sub_model, *settings.default_child_models)
        unlisted = [name for name in dict.fromkeys(defaults) if name not in settings.models]
        wanted = {name: ModelProfile() for name in unlisted} | settings.models
        for name, profile in wanted.items():
            label = "endpoint" if name in unlisted else f"models.{name}"
            try:
                options = endpoint_options(settings, name, profile, environment)
            except SettingsError as error:
                results.append(Result(label, State.FAILED, str(error), "Set it, or name another source of the key."))
                continue
            options = dataclasses.replace(options, silence_timeout_seconds=_ENDPOINT_CHECK_SECONDS)
            results.append(await _endpoint(label, options, profile.model or name))
            if profile.price is None and name in settings.models:
                remedy = f"Set models.{name}.price, so that limits on cost hold."
                results.append(Result(label, State.NOTE, "has no price", remedy))
    return results


async def _endpoint(label: str, options: EndpointOptions, model: str) -> Result:
    where = without_secrets(options.base_url or "OpenAI")
    tried = OpenAIEndpoint(options)
    try:
        names = await tried.model_names()
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        return Result(label, State.FAILED, f"{where} refuses the key: {error.message}", "Give another key.")
    except openai.APIConnectionError as error:
        remedy = "Check --base-url, the network and proxies; is the endpoint running?"
        return Result(label, State.FAILED, f"{where} cannot be reached: {error.__cause__ or error}", remedy)
    except openai.APIStatusError as error:
        remedy = "Some endpoints list no models; try a completion."
        return Result(label, State.NOTE, f"{where} answers {error.status_code} to a models call", remedy)
    finally:
        await tried.close()
    if options.azure_api_version:
        return Result(label, State.OK, f"{where} answers; it does not list deployments, so {model!r} is not checked")
    if model.partition("?")[0] not in names:
        remedy = f"It has {', '.join(names[:10]) or 'none'}."
        return Result(label, State.NOTE, f"{where} does not list model {model!r}", remedy)
    return Result(label, State.OK, f"{where} answers and has model {model!r}")
