"""Makes the models of a server from its settings."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from typing import TYPE_CHECKING

from rlm_server.engine.ports.models import ModelInfo, Sampling
from rlm_server.models.gate import Gate
from rlm_server.models.openai_endpoint import EndpointOptions, OpenAIEndpoint
from rlm_server.models.profile import ModelProfile
from rlm_server.models.router import ModelRouter, Target
from rlm_server.settings import SettingsError, checked_key, read_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rlm_server.settings import Settings

_log = logging.getLogger(__name__)

_ANY = ModelProfile()
"""The profile of models that have none of their own."""

_KEPT_TARGETS = 100
"""Of models without a profile, whose names are those that requests give."""


class ModelRegistry:
    """The models of a server.

    Args:
        settings: the server's.
        environment: variables that keys are read from.

    Raises:
        SettingsError: a key cannot be read.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environment = environment
        settings.resolved_api_key()  # what is wrong with its file is told at the start, not by the first call
        self._resources = contextlib.AsyncExitStack()
        self._own_endpoint = functools.cache(lambda: self._open(endpoint_options(settings, "", _ANY, environment)))
        self._own_gate = Gate()
        self._other_target = functools.lru_cache(_KEPT_TARGETS)(lambda name: self._target(name, None))
        self._targets = {name: self._target(name, profile) for name, profile in settings.models.items()}
        self.client = ModelRouter(self.target)
        """Calls the models."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._resources.aclose()

    def target(self, name: str) -> Target:
        """Returns a model by its name; one without a profile is the server's own endpoint's."""
        return self._targets.get(name) or self._other_target(name)

    def _target(self, name: str, profile: ModelProfile | None) -> Target:
        settings = self._settings
        known = profile or _ANY
        if profile is None:
            endpoint, gate = self._own_endpoint(), self._own_gate
        else:
            endpoint = self._open(endpoint_options(settings, name, profile, self._environment))
            gate = Gate(
                requests_per_minute=profile.requests_per_minute,
                tokens_per_minute=profile.tokens_per_minute,
                max_concurrent_calls=profile.max_concurrent_calls,
            )
        return Target(
            info=ModelInfo(
                name,
                known.window_tokens,
                known.max_output_tokens,
                known.price,
                known.fallbacks,
                takes_images=known.images,
            ),
            model=known.model or name,
            endpoint=endpoint,
            gate=gate,
            sampling=Sampling(known.temperature, known.top_p, known.max_output_tokens, known.reasoning_effort),
            max_retries=settings.model_max_retries if known.max_retries is None else known.max_retries,
            try_timeout_seconds=_or(known.try_timeout_seconds, settings.model_try_timeout_seconds),
            total_timeout_seconds=_or(known.total_timeout_seconds, settings.model_total_timeout_seconds),
        )

    def _open(self, options: EndpointOptions) -> OpenAIEndpoint:
        endpoint = OpenAIEndpoint(options)
        self._resources.push_async_callback(endpoint.close)
        return endpoint


def endpoint_options(
    settings: Settings, name: str, profile: ModelProfile, environment: Mapping[str, str]
) -> EndpointOptions:
    """Returns how the endpoint of a profile is reached.

    Args:
        settings: the server's.
        name: the profile's; empty for the server's own endpoint.
        profile: what it says.
        environment: variables that keys are read from.

    Raises:
        SettingsError: its key cannot be read.
    """
    key, key_file, setting = (
        profile_key(name, profile, environment),
        profile.api_key_file,
        f"models.{name}.api_key_file",
    )
    if key is None and profile.base_url is None:
        key, key_file, setting = settings.resolved_api_key(), settings.api_key_file, "api_key_file"
    return EndpointOptions(
        base_url=profile.base_url or settings.base_url,
        api_key=key,
        read_key=None if key_file is None else _rereading(key_file, setting),
        azure_api_version=profile.api_version,
        silence_timeout_seconds=_or(profile.silence_timeout_seconds, settings.model_timeout_seconds),
        use_responses=profile.api == "responses",
        stream=profile.stream,
        extra_body=profile.extra_body,
        extra_headers=profile.extra_headers,
    )


def profile_key(name: str, profile: ModelProfile, environment: Mapping[str, str]) -> str | None:
    """Returns a profile's own key, or None if it names none.

    Raises:
        SettingsError: it cannot be read; the message says what to do.
    """
    if profile.api_key_file is not None:
        return read_key(profile.api_key_file, f"models.{name}.api_key_file")
    if profile.api_key_env is not None:
        key = environment.get(profile.api_key_env, "")
        if not key.strip():
            raise SettingsError(f"models.{name}.api_key_env names {profile.api_key_env}, which is not set: set it")
        return checked_key(key, profile.api_key_env)
    return None if profile.api_key is None else profile.api_key.strip()


def _rereading(path: Path, setting: str) -> Callable[[], str | None]:
    def read() -> str | None:
        try:
            return read_key(path, setting)
        except SettingsError as error:
            _log.warning("an endpoint refuses its key, and there is no other: %s", error)
            return None

    return read


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
