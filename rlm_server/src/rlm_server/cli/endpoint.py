"""Which model endpoint a command uses: the one that was configured, or the demo model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.demo_model import MODEL_ID, MODEL_IDS
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_server.configuration import Configuration
    from rlm_server.settings import Settings

DEFAULT_OPENAI_MODEL = "gpt-5-mini"
"""Model that is used with a key for OpenAI's endpoint where none is named."""

STAND_IN_NOTICE = (
    "The demo model answers: a fixed program that stands in for a language model and is none. For a real one set "
    "OPENAI_API_KEY, or give --base-url and --model."
)


@dataclass(frozen=True)
class Endpoint:
    """The settings with a model in them.

    Args:
        settings: all settings. With `is_demo` their `base_url` is that of a demo model yet to be started.
        configuration: where they come from.
        is_demo: whether the demo model answers.
    """

    settings: Settings
    configuration: Configuration
    is_demo: bool = False


def choose_endpoint(configuration: Configuration) -> Endpoint:
    """Returns the endpoint that a configuration names, or the demo model if it names none.

    Raises:
        SettingsError: the settings do not go together.
    """
    profiles = configuration.names("models")
    model = configuration.value("default_model") or next(iter(profiles), None)
    base_url = configuration.value("base_url")
    has_key = any(configuration.value(name) is not None for name in ("api_key", "api_key_file"))
    is_demo = False
    # A profile that names no endpoint may tell the price of the demo model, say, and still mean that.
    has_own_endpoint = model in profiles and configuration.values.get(("models", model, "base_url")) is not None
    if has_own_endpoint or (model in profiles and model not in MODEL_IDS):
        pass
    elif base_url:
        if model is None:
            raise SettingsError(
                f"base_url ({configuration.origin(('base_url',))}) needs --model, or the setting default_model: name "
                "a model that the endpoint has"
            )
    elif (model is None and not has_key) or (model is not None and model.partition("?")[0] in MODEL_IDS):
        is_demo = True
        demo_model = {} if model else {"default_model": MODEL_ID}
        unset = {"api_key": None, "api_key_file": None}
        configuration = configuration.with_values(
            demo_model | {"stand_in_models": MODEL_IDS} | unset, "the demo model, as no other endpoint is named"
        )
    elif not has_key:
        raise SettingsError(
            f"model {model} needs an endpoint: give --base-url, or a key for OpenAI's in OPENAI_API_KEY or "
            "--api-key-file, or a profile in the configuration's models"
        )
    elif model is None:
        configuration = configuration.with_values(
            {"default_model": DEFAULT_OPENAI_MODEL}, "OpenAI's, as there is a key"
        )
    return Endpoint(configuration.settings(), configuration, is_demo)


@contextlib.asynccontextmanager
async def started(endpoint: Endpoint) -> AsyncIterator[Settings]:
    """Starts the demo model if the endpoint is that one, and yields the settings with its real `base_url`."""
    if not endpoint.is_demo:
        yield endpoint.settings
        return
    from rlm_server.demo_model.server import running_demo_model  # noqa: PLC0415 - of no use to the other commands

    async with running_demo_model() as running:
        yield endpoint.configuration.with_values({"base_url": running.base_url}, "the demo model").settings()
