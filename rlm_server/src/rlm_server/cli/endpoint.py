"""Which model endpoint a command uses: the one that was named, or the demo model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlm_server.demo_model import MODEL_ID, MODEL_IDS, running_demo_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

DEFAULT_OPENAI_MODEL = "gpt-5-mini"
"""Model that is used with a key for OpenAI's endpoint where none is named."""

STAND_IN_NOTICE = (
    "The demo model answers: a fixed program that stands in for a language model and is none. For a real one set "
    "OPENAI_API_KEY, or give --base-url and --model."
)


class EndpointError(ValueError):
    """The options do not make an endpoint; the message says what to add."""


@dataclass(frozen=True)
class Endpoint:
    """A model endpoint.

    Args:
        model: the root's model.
        sub_model: the sub-calls' model, or None for the root's.
        base_url: where it is, or None for OpenAI's, or, with `is_demo`, for a demo model yet to be started.
        api_key: its key, or None.
        is_demo: whether it is the demo model.
    """

    model: str
    sub_model: str | None
    base_url: str | None
    api_key: str | None = field(repr=False)
    is_demo: bool = False

    @property
    def stand_in_models(self) -> tuple[str, ...]:
        """Names of its models that are no language models."""
        return MODEL_IDS if self.is_demo else ()


def choose_endpoint(
    *,
    model: str | None,
    sub_model: str | None,
    base_url: str | None,
    api_key_file: Path | None,
    environment: Mapping[str, str],
) -> Endpoint:
    """Returns the endpoint that options and environment name, or the demo model if they name none.

    Raises:
        EndpointError: they do not go together, or the key's file cannot be read.
    """
    key = _read_key(api_key_file) if api_key_file is not None else environment.get("OPENAI_API_KEY") or None
    if base_url:
        if model is None:
            raise EndpointError("--base-url needs --model: name a model that the endpoint has")
        return Endpoint(model, sub_model, base_url, key)
    if (model is None and key is None) or (model is not None and model.partition("?")[0] in MODEL_IDS):
        return Endpoint(model or MODEL_ID, sub_model, None, None, is_demo=True)
    if key is None:
        raise EndpointError(
            f"--model {model} needs an endpoint: give --base-url, or a key for OpenAI's in OPENAI_API_KEY or "
            "--api-key-file"
        )
    return Endpoint(model or DEFAULT_OPENAI_MODEL, sub_model, None, key)


@contextlib.asynccontextmanager
async def started(endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    """Starts the demo model if the endpoint is that one, and yields the endpoint with its real `base_url`."""
    if not endpoint.is_demo:
        yield endpoint
        return
    async with running_demo_model() as running:
        yield Endpoint(endpoint.model, endpoint.sub_model, running.base_url, None, is_demo=True)


def _read_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EndpointError(f"--api-key-file {path} cannot be read: {error}") from error
    if not key:
        raise EndpointError(f"--api-key-file {path} is empty")
    return key
