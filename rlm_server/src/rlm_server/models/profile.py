"""Model profiles: how a model of the operator's configuration is reached, what it takes and what it costs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import urllib.parse
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import pydantic
import pydantic.dataclasses

from rlm_server.engine.ports.models import Price


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class ModelProfile:
    """A model, under the name that requests and code use. What is None is the server's own setting, or the endpoint's.

    A field that is not in `repr` is a secret, and masked wherever settings are shown.

    Args:
        provider: `openai` for any endpoint with OpenAI's interface, `azure` for Azure OpenAI.
        model: what the endpoint calls it; for Azure the deployment. None means the profile's name.
        base_url: the endpoint, as `http://127.0.0.1:8000/v1`, or the resource's for Azure. None means the server's
            `base_url`, with its key.
        api_version: of Azure, as `2025-04-01-preview`.
        api_key: the endpoint's key.
        api_key_env: name of the environment variable that has the key.
        api_key_file: file that has the key.
        api: `chat` for chat completions, `responses` for OpenAI's newer interface.
        stream: whether replies are streamed; false for endpoints that cannot.
        window_tokens: how many tokens messages and reply may have together.
        images: whether it takes images; if not, calls that show one are refused before they are sent.
        max_output_tokens: the limit of one reply where a request gives none.
        temperature: is sent where a request gives none; likewise `top_p` and `reasoning_effort`.
        top_p: see `temperature`.
        reasoning_effort: see `temperature`.
        extra_body: fields that are added to the body of each call.
        extra_headers: headers that are added to each call.
        price: US dollars for a million tokens.
        fallbacks: profiles that are asked in this order when this one fails.
        max_retries: how often a failed call is made again.
        silence_timeout_seconds: how long the endpoint may be silent during a call.
        try_timeout_seconds: how long one call may take.
        total_timeout_seconds: how long all calls for one reply may take, waits between them included.
        requests_per_minute: how many calls may be made in a minute, over all completions of the server.
        tokens_per_minute: how many tokens may be sent and made in a minute, by estimate, likewise.
        max_concurrent_calls: how many calls may run at once, likewise.

    Raises:
        pydantic.ValidationError: a value is wrong.
    """

    provider: Literal["openai", "azure"] = "openai"
    model: str | None = None
    base_url: str | None = None
    api_version: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    api_key_file: Path | None = None
    api: Literal["chat", "responses"] = "chat"
    stream: bool = True
    window_tokens: int | None = None
    images: bool = True
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    extra_headers: dict[str, str] = field(default_factory=dict, repr=False)
    price: Price | None = None
    fallbacks: tuple[str, ...] = ()
    max_retries: int | None = None
    silence_timeout_seconds: float | None = None
    try_timeout_seconds: float | None = None
    total_timeout_seconds: float | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrent_calls: int | None = None

    def __post_init__(self) -> None:
        expand_home(self)
        if self.provider == "azure" and not (self.base_url and self.api_version):
            raise ValueError("Azure needs base_url (the resource's endpoint) and api_version")
        if self.provider == "openai" and self.api_version:
            raise ValueError("api_version is Azure's; set provider = 'azure', or leave it out")
        if sum(one is not None for one in (self.api_key, self.api_key_env, self.api_key_file)) > 1:
            raise ValueError("give one of api_key, api_key_env and api_key_file")
        if self.base_url is not None and (problem := url_problem(self.base_url)):
            raise ValueError(f"base_url {problem}")
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("extra_body must be what JSON can express: texts, numbers, lists and tables") from None
        if self.model == "":
            raise ValueError("model is empty; leave it out for the profile's name")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError("temperature must be from 0 to 2")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError("top_p must be over 0 and at most 1")
        if self.max_retries is not None and self.max_retries < 0:
            raise ValueError("max_retries must not be negative")
        for name in ("window_tokens", "max_output_tokens", "requests_per_minute", "max_concurrent_calls"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("silence_timeout_seconds", "try_timeout_seconds", "total_timeout_seconds", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0")
        if self.price is not None:
            for price in (self.price.input, self.price.output, self.price.cached_input or 0.0):
                if not 0 <= price < float("inf"):
                    raise ValueError("price must not be negative")


def url_problem(url: str) -> str:
    """Returns what is wrong with the address of an endpoint, with the remedy; empty if nothing is."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0:
            return ""
    except ValueError:  # as of a port that is none
        pass
    return "must be an http or https URL with a host, as http://127.0.0.1:8000/v1"


def expand_home(settings: Any) -> None:
    """Puts the home directory in the place of the `~` that paths of a dataclass begin with, as a shell does."""
    for field_ in dataclasses.fields(settings):
        path = getattr(settings, field_.name)
        if isinstance(path, Path) and path.parts[:1] and path.parts[0].startswith("~"):
            with contextlib.suppress(RuntimeError):  # as there is no such user
                object.__setattr__(settings, field_.name, path.expanduser())
