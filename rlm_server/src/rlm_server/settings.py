"""The server's settings: typed, frozen, checked when they are made. `rlm_server.configuration` reads them."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import field
from pathlib import Path

import pydantic
import pydantic.dataclasses
from rlm_common.addresses import is_loopback, listen_problem, target_problem

from rlm_server.engine.images import DEFAULT_MAX_IMAGE_BYTES
from rlm_server.engine.limits import GREATEST_LIMITS, CompletionLimits, limits_problem
from rlm_server.engine.prompts import DEFAULT_PROMPTS
from rlm_server.models.profile import ModelProfile, expand_home, url_problem

LOCAL_SANDBOX = "local"
"""Value of `Settings.sandbox` that runs code in the server's own process."""

DEFAULT_LISTEN_ADDRESS = "127.0.0.1:50051"
"""Where `rlm serve` listens, and clients look, unless told otherwise."""


class SettingsError(Exception):
    """Settings that cannot work; the message says which, and the remedy."""


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Settings:
    """How a server is set up.

    A field that is not in `repr` is a secret, and masked wherever settings are shown.

    Args:
        default_model: the root's model where a request names none. Empty takes the first of `models`.
        listen: addresses to listen on, each `HOST:PORT` or `unix:PATH`; port 0 takes a free one.
        sandbox: where code runs. None starts a sandbox server as a child process on a Unix socket; `unix:PATH`,
            and `HOST:PORT` name a running one, `dns:///HOST:PORT` and `ipv4:HOST:PORT,HOST:PORT` several; `local` runs
            code in this process, without any isolation, for development.
        base_url: the OpenAI-compatible endpoint, as `http://127.0.0.1:8000/v1`. None means OpenAI's.
        api_key: the endpoint's key. None means that it needs none, or that `api_key_file` has it.
        api_key_file: file with the endpoint's key.
        default_sub_model: the sub-calls' model where neither request nor code names one. None means the root's.
        default_child_models: models of `rlm_query` children where a request names none, by depth from 1; the last is
            that of all deeper ones. None at all means the sub-calls' model.
        models: profiles by the names that requests and code use. Other names are models of `base_url`.
        allowed_models: models that requests and code may name. None means those of `models`, and, if `base_url` or a
            key is set or there are no profiles, any other, which is passed on as it is.
        stand_in_models: those of the models that are the demo model, for `ListModels`.
        default_limits: limits where a request gives none.
        max_limits: the greatest that a request can have; None in a limit of tokens means no cap,
            as does 0 in `cell`.
        max_concurrent_completions: completions that run at once; more are refused.
        context_store_bytes: room for uploaded contexts; the least recently used go first.
        max_context_bytes: size of one uploaded context.
        max_direct_answer_tokens: how large a context may be, by estimate, to be answered by one plain call where a
            request allows that; half of the model's window is a limit, too.
        max_image_bytes: size of one picture, in a context or a sub-call.
        max_returned_file_bytes: the greatest size of all files together that a completion returns to its client.
        data_dir: where completions and uploaded contexts are kept. None means a temporary directory, and that nothing
            outlives the server.
        database: where the journal of completions is, `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST:PORT/NAME`,
            the latter for several servers. None means a file in `data_dir`.
        blob_store: where contexts and large results are, as `s3://BUCKET/PREFIX`; servers that share a database need a
            common one. None means a directory in `data_dir`.
        retention_seconds: how long completions are kept after their end; None, or infinity, means for ever.
        retention_bytes: how much all that have ended may take; the oldest go first. None means any.
        storage_patience_seconds: how long a call waits for a journal that does not answer, before it is refused.
        client_grace_seconds: how long a completion that is not detached goes on while no client watches it.
        lease_seconds: after how long without a sign of life of the server that runs it a completion is taken over.
        sandbox_image: guest image that code runs in, of those that the sandbox server has; empty means its standard
            one. `local` has none.
        sandbox_patience_seconds: how long to wait for a sandbox that cannot be had, before the completion parks; 0
            refuses one that has not begun.
        prompts_dir: directory with an operator's own texts for models, as `prompts.load_library` reads it. None means
            that there is none.
        default_prompts: the set of texts that is used where a request names none.
        max_conversations: conversations that the server has at hand at once, each with a sandbox; more are refused.
        conversation_ttl_seconds: how long a conversation is kept after each use, where a request does not say.
        max_conversation_ttl_seconds: the longest that a request can have.
        context_window_tokens: size of the window of models of which nothing else is known.
        compaction_threshold: the part of a model's window beyond which the messages of a node are summed up, over 0 and
            at most 1, where a request does not say.
        model_timeout_seconds: how long an endpoint may be silent during a call, unless the model's profile says
            otherwise, as with the following.
        model_try_timeout_seconds: how long one call to an endpoint may take.
        model_total_timeout_seconds: how long all calls for one reply may take, waits and fallbacks included.
        model_max_retries: how often a failed call to an endpoint is made again.
        answer_at_limit: when a limit on turns, sub-calls or errors ends a node, its model is asked once more, for its
            best answer, where a request does not say.
        look_required: an answer that is given before any code has looked at the context is refused, where a request
            does not say.
        sandbox_start_timeout_seconds: how long a sandbox server that is a child process may take until it serves. The
            first start on a machine builds the guest image.
        grace_seconds: how long running completions may go on when the server shuts down.
        log_level: the least severe level that is logged, as `INFO`.

    Raises:
        pydantic.ValidationError: a value has the wrong type.
        SettingsError: the settings contradict themselves.
    """

    default_model: str = ""
    listen: tuple[str, ...] = (DEFAULT_LISTEN_ADDRESS,)
    sandbox: str | None = None
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_key_file: Path | None = None
    default_sub_model: str | None = None
    default_child_models: tuple[str, ...] = ()
    models: dict[str, ModelProfile] = field(default_factory=dict)
    allowed_models: tuple[str, ...] | None = None
    stand_in_models: tuple[str, ...] = ()
    default_limits: CompletionLimits = field(default_factory=CompletionLimits)
    max_limits: CompletionLimits = GREATEST_LIMITS
    max_concurrent_completions: int = 256
    context_store_bytes: int = 4 * 1024**3
    max_context_bytes: int = 1024**3
    max_direct_answer_tokens: int = 16_384
    max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES
    max_returned_file_bytes: int = 16 * 1024**2
    data_dir: Path | None = None
    database: str | None = field(default=None, repr=False)
    blob_store: str | None = None
    retention_seconds: float | None = 7 * 24 * 3600.0
    retention_bytes: int | None = 10 * 1024**3
    storage_patience_seconds: float = 5.0
    client_grace_seconds: float = 15.0
    lease_seconds: float = 6.0
    sandbox_image: str = ""
    sandbox_patience_seconds: float = 60.0
    prompts_dir: Path | None = None
    default_prompts: str = DEFAULT_PROMPTS
    max_conversations: int = 64
    conversation_ttl_seconds: float = 900.0
    max_conversation_ttl_seconds: float = 86_400.0
    context_window_tokens: int = 128_000
    compaction_threshold: float = 0.8
    answer_at_limit: bool = True
    look_required: bool = False
    model_timeout_seconds: float = 300.0
    model_try_timeout_seconds: float = 900.0
    model_total_timeout_seconds: float = 1800.0
    model_max_retries: int = 2
    sandbox_start_timeout_seconds: float = 300.0
    grace_seconds: float = 30.0
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        expand_home(self)
        if not self.default_model and self.models:
            object.__setattr__(self, "default_model", next(iter(self.models)))
        if not self.default_model:
            raise SettingsError("default_model is empty: name the model that requests use by default")
        if not self.listen:
            raise SettingsError("listen is empty: give at least one address, as 127.0.0.1:50051 or unix:PATH")
        for address in self.listen:
            if problem := listen_problem(address):
                raise SettingsError(f"listen: {address!r} {problem}")
        if self.sandbox == "":
            raise SettingsError("sandbox is empty: give an address, `local`, or None for a child process")
        if self.sandbox not in (None, LOCAL_SANDBOX) and (problem := target_problem(self.sandbox)):
            raise SettingsError(f"sandbox: {self.sandbox!r} {problem}, or `local`")
        if self.base_url is not None and (problem := url_problem(self.base_url)):
            raise SettingsError(f"base_url {problem}")
        exposed = [address for address in self.listen if not is_loopback(address)]
        if self.sandbox == LOCAL_SANDBOX and exposed:
            raise SettingsError(
                "sandbox=local runs the models' code in this process, with your files, keys and network, so it is "
                f"refused on addresses that others can reach: {', '.join(exposed)}. Listen on 127.0.0.1, or use a real "
                "sandbox."
            )
        if self.api_key is not None:
            object.__setattr__(self, "api_key", checked_key(self.api_key, "api_key"))
        if self.api_key is not None and self.api_key_file is not None:
            raise SettingsError("api_key and api_key_file are both set: give one of them")
        self._check_models()
        self._check_numbers()
        if self.log_level.upper() not in logging.getLevelNamesMapping():
            raise SettingsError(f"log_level {self.log_level!r} is unknown: give DEBUG, INFO, WARNING or ERROR")

    def _check_models(self) -> None:
        for name, profile in self.models.items():
            if profile.api_key is not None:
                checked_key(profile.api_key, f"models.{name}.api_key")
        for name in (self.default_model, self.sub_model, *self.default_child_models):
            if self.allowed_models is not None and name not in self.allowed_models:
                raise SettingsError(f"model {name!r} is a default but not in allowed_models: add it")
            if not self.is_allowed(name):
                raise SettingsError(
                    f"model {name!r} is a default but has no profile in models, nor is there a base_url or key for it"
                )
        for name, profile in self.models.items():
            for fallback in profile.fallbacks:
                if fallback not in self.models:
                    raise SettingsError(f"models.{name}.fallbacks names {fallback!r}, which has no profile in models")
                if fallback == name:
                    raise SettingsError(f"models.{name}.fallbacks names the model itself")

    def _check_numbers(self) -> None:
        if self.retention_seconds == math.inf:
            object.__setattr__(self, "retention_seconds", None)
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{one.name} is {value}; give a finite number")
        for name in (
            *("max_concurrent_completions", "max_conversations", "context_store_bytes", "max_context_bytes"),
            *("max_image_bytes", "max_returned_file_bytes"),
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1")
        for name in (
            "model_timeout_seconds",
            "model_try_timeout_seconds",
            "model_total_timeout_seconds",
            "sandbox_start_timeout_seconds",
            "storage_patience_seconds",
            "lease_seconds",
            "conversation_ttl_seconds",
            "max_conversation_ttl_seconds",
        ):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be more than 0")
        for name in (
            *("model_max_retries", "grace_seconds", "client_grace_seconds", "sandbox_patience_seconds"),
            *("retention_seconds", "retention_bytes", "max_direct_answer_tokens"),
        ):
            if (getattr(self, name) or 0) < 0:
                raise SettingsError(f"{name} must not be negative")
        for name in ("default_limits", "max_limits"):
            if problem := limits_problem(getattr(self, name)):
                raise SettingsError(f"{name}.{problem}")
        if self.context_window_tokens < 1000:
            raise SettingsError("context_window_tokens must be at least 1000: a system message alone takes that much")
        if not 0 < self.compaction_threshold <= 1:
            raise SettingsError("compaction_threshold must be over 0 and at most 1, as 0.8")

    @property
    def sub_model(self) -> str:
        """The sub-calls' model where neither request nor code names one."""
        return self.default_sub_model or self.default_model

    @property
    def any_model_allowed(self) -> bool:
        """Whether requests may name models that have no profile."""
        has_endpoint = any(one is not None for one in (self.base_url, self.api_key, self.api_key_file))
        return self.allowed_models is None and (has_endpoint or not self.models)

    def is_allowed(self, model: str) -> bool:
        """Whether requests and code may name a model."""
        if self.allowed_models is not None:
            return model in self.allowed_models
        return model in self.models or self.any_model_allowed

    def resolved_api_key(self) -> str | None:
        """Returns the endpoint's key, from the settings or the file that they name.

        Raises:
            SettingsError: the file cannot be read, or is empty.
        """
        return self.api_key if self.api_key_file is None else read_key(self.api_key_file, "api_key_file")


def read_key(path: Path, setting: str) -> str:
    """Returns the key in a file.

    Args:
        path: the file.
        setting: what named it, for the error.

    Raises:
        SettingsError: the file cannot be read, or holds no key.
    """
    try:
        key = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{setting} {path} cannot be read: {error}") from error
    return checked_key(key, f"{setting} {path}")


def checked_key(key: str, setting: str) -> str:
    """Returns a key without white space around it.

    Args:
        key: the key.
        setting: what gave it, for the error.

    Raises:
        SettingsError: it is empty, or has characters that cannot be sent.
    """
    stripped = key.strip()
    if not stripped:
        raise SettingsError(f"{setting} is empty: give a key, or leave it out")
    if not stripped.isascii() or not stripped.isprintable():
        raise SettingsError(f"{setting} has characters that no key has, as line breaks or others than ASCII: check it")
    return stripped
