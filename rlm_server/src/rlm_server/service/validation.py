"""Checks requests, and makes of a good one what the engine takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from rlm_common.errors import ServiceError, Violations, invalid_field

from rlm_server.engine.answers.answer_schema import AnswerSchema
from rlm_server.engine.ports.models import Sampling
from rlm_server.engine.run import CompletionSpec, UnknownModelError, WantedFiles
from rlm_server.engine.schemas.json_schema import InvalidSchemaError, JsonSchema
from rlm_server.service.compaction_validation import check_compaction
from rlm_server.service.context_validation import check_contexts
from rlm_server.service.limits_validation import resolve_limits
from rlm_server.service.prompts import check_prompts
from rlm_server.service.tool_validation import check_tools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_api.rlm.v1 import completion_service_pb2 as pb

    from rlm_server.context_uploads import StoredContext
    from rlm_server.contexts import ContextStore
    from rlm_server.engine.prompts import PromptLibrary
    from rlm_server.service.kept_repls import Conversation
    from rlm_server.service.models import ModelNames
    from rlm_server.settings import Settings

_MAX_CHILD_MODELS = 20
_MAX_QUERY_CHARS = 100_000
_MAX_SCHEMA_CHARS = 100_000
_MAX_LABELS = 20
_MAX_REQUEST_ID_CHARS = 100
_MAX_LABEL_CHARS = 100
_MAX_EFFORT_CHARS = 50
_MAX_PATTERNS = 20
_MAX_PATTERN_CHARS = 1000


@dataclass(frozen=True)
class CheckedRequest:
    """A good request.

    Args:
        spec: the completion that it asks for.
        stored: the uploaded contexts that it uses.
    """

    spec: CompletionSpec
    stored: list[StoredContext]


class RequestValidator:
    """Checks `CompleteRequest`s.

    Args:
        settings: the server's.
        models: the models it serves.
        contexts: what was uploaded.
        prompts: the sets of texts that models can be given.
    """

    def __init__(self, settings: Settings, models: ModelNames, contexts: ContextStore, prompts: PromptLibrary) -> None:
        self._settings = settings
        self._prompts = prompts
        self._models = models
        self._contexts = contexts

    async def check(
        self,
        request: pb.CompleteRequest,
        completion_id: str,
        conversation: Conversation | None = None,
        *,
        client_serves: bool = False,
    ) -> CheckedRequest:
        """Returns what the engine takes.

        Args:
            request: a caller's.
            completion_id: the id that the completion is to have.
            conversation: the one that it belongs to.
            client_serves: whether the client can serve tools.

        Raises:
            ServiceError: INVALID_ARGUMENT with all wrong fields, or NOT_FOUND for a context.
            StorageUnavailableError: the journal cannot be used at present.
        """
        violations = Violations()
        _check_query(request.query, violations)
        await self._contexts.load([part.context_id for part in request.contexts if part.context_id])
        earlier_names = None if conversation is None else conversation.repl.turns.part_names
        contexts = await check_contexts(
            request.contexts, self._contexts, self._settings.max_image_bytes, violations, earlier_names
        )
        limits = resolve_limits(request.limits, self._settings.default_limits, self._settings.max_limits, violations)
        sampling = _check_sampling(request.sampling, "sampling", violations)
        if request.HasField("seed"):
            sampling = dataclasses.replace(sampling, seed=request.seed)
        sub_sampling = _check_sampling(request.sub_sampling, "sub_sampling", violations).or_else(sampling)
        _check_labels(request.labels, violations)
        violations.check(
            len(request.child_models) <= _MAX_CHILD_MODELS,
            "child_models",
            f"has {len(request.child_models)} models; at most {_MAX_CHILD_MODELS} are allowed, the last holds for all "
            "deeper children",
        )
        violations.check(
            len(request.request_id) <= _MAX_REQUEST_ID_CHARS,
            "request_id",
            f"has {len(request.request_id):,} characters; at most {_MAX_REQUEST_ID_CHARS} are allowed",
        )
        prompts = check_prompts(request.prompts, self._prompts, violations)
        compaction = check_compaction(
            request.compaction, self._models.window_tokens, self._settings.compaction_threshold, violations
        )
        context_names = [part.value.name for part in contexts.parts]
        tools = check_tools(request.tools, context_names, violations, client_serves=client_serves)
        answer_schema = _check_answer_schema(request.answer_schema, violations)
        wanted_files = None
        if request.HasField("return_files"):
            wanted_files = _check_files(request.return_files, self._settings.max_returned_file_bytes, violations)
        violations.raise_if_any()
        model = self._model(request.model or self._settings.default_model, "model")
        sub_model = self._model(request.sub_model or self._settings.default_sub_model or model, "sub_model")
        child_models: Sequence[str] = [
            self._model(name, f"child_models[{index}]") for index, name in enumerate(request.child_models)
        ]
        if not child_models and not request.sub_model:
            child_models = self._settings.default_child_models
        if contexts.missing:
            missing = contexts.missing[0]
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "CONTEXT_NOT_FOUND",
                f"no uploaded context has the id {missing[:200]!r}, or it is not kept any more; upload it again",
                metadata={"context_id": missing},
            )
        spec = CompletionSpec(
            completion_id=completion_id,
            query=request.query,
            contexts=contexts.parts,
            model=model,
            sub_model=sub_model,
            child_models=child_models,
            limits=limits,
            sampling=sampling,
            sub_sampling=sub_sampling,
            wanted_files=wanted_files,
            resolve_model=self._models.resolve,
            prompts=prompts,
            model_note=self._model_note,
            model_names=self._models.names,
            compaction=compaction,
            max_direct_answer_tokens=self._settings.max_direct_answer_tokens if request.direct_answer_allowed else None,
            max_image_bytes=self._settings.max_image_bytes,
            cache_subcalls=request.cache_subcalls,
            tools=tools,
            answer_schema=answer_schema,
            conversation_id="" if conversation is None else conversation.conversation_id,
            seed=request.seed if request.HasField("seed") else None,
            answer_at_limit=(
                request.answer_at_limit if request.HasField("answer_at_limit") else self._settings.answer_at_limit
            ),
            look_required=(
                request.look_required if request.HasField("look_required") else self._settings.look_required
            ),
        )
        return CheckedRequest(spec, contexts.stored)

    def _model_note(self, name: str) -> str:
        notes = map(self._prompts.note_for, self._models.known_as(name))
        return next(filter(None, notes), "")

    def _model(self, name: str, field_path: str) -> str:
        try:
            return self._models.resolve(name)
        except UnknownModelError as error:
            raise invalid_field(
                field_path,
                str(error),
                reason="UNKNOWN_MODEL",
                metadata={"model": name, "available": ",".join(self._models.names)},
            ) from None


def _check_query(query: str, violations: Violations) -> None:
    if not query.strip():
        violations.add("query", "is empty; give the question, or what is to be done")
    if len(query) > _MAX_QUERY_CHARS:
        violations.add(
            "query",
            f"has {len(query):,} characters; at most {_MAX_QUERY_CHARS:,} are allowed: give large texts as a context",
        )


def _check_answer_schema(text: str, violations: Violations) -> AnswerSchema | None:
    if not text:
        return None
    if len(text) > _MAX_SCHEMA_CHARS:
        violations.add("answer_schema", f"has {len(text):,} characters; at most {_MAX_SCHEMA_CHARS:,} are allowed")
        return None
    try:
        return AnswerSchema(JsonSchema.parse(text))
    except InvalidSchemaError as error:
        violations.add("answer_schema", str(error))
        return None


def _check_sampling(sampling: pb.Sampling, path: str, violations: Violations) -> Sampling:
    temperature = sampling.temperature if sampling.HasField("temperature") else None
    top_p = sampling.top_p if sampling.HasField("top_p") else None
    max_output_tokens = sampling.max_output_tokens if sampling.HasField("max_output_tokens") else None
    if temperature is not None and not 0 <= temperature <= 2:  # NaN fails as well
        violations.add(f"{path}.temperature", f"is {temperature:g}; must be from 0 to 2")
    if top_p is not None and not 0 < top_p <= 1:
        violations.add(f"{path}.top_p", f"is {top_p:g}; must be over 0 and at most 1")
    if max_output_tokens is not None and max_output_tokens < 1:
        violations.add(f"{path}.max_output_tokens", f"is {max_output_tokens}; must be at least 1, or absent")
    if len(sampling.reasoning_effort) > _MAX_EFFORT_CHARS:
        violations.add(f"{path}.reasoning_effort", f"is longer than {_MAX_EFFORT_CHARS} characters; as `low` or `high`")
    return Sampling(temperature, top_p, max_output_tokens, sampling.reasoning_effort or None)


def _check_files(files: pb.ReturnFiles, greatest_bytes: int, violations: Violations) -> WantedFiles:
    violations.check(
        len(files.patterns) <= _MAX_PATTERNS,
        "return_files.patterns",
        f"has {len(files.patterns)} patterns; at most {_MAX_PATTERNS} are allowed, none at all means every file",
    )
    for index, pattern in enumerate(files.patterns):
        violations.check(
            0 < len(pattern) <= _MAX_PATTERN_CHARS,
            f"return_files.patterns[{index}]",
            f"has {len(pattern):,} characters; must have 1 to {_MAX_PATTERN_CHARS:,}, as `*.csv`",
        )
    max_bytes = files.max_bytes if files.HasField("max_bytes") else greatest_bytes
    violations.check(
        max_bytes >= 1, "return_files.max_bytes", f"is {max_bytes}; must be at least 1, or absent for the default"
    )
    return WantedFiles(tuple(files.patterns), min(max_bytes, greatest_bytes))


def _check_labels(labels: Mapping[str, str], violations: Violations) -> None:
    if len(labels) > _MAX_LABELS:
        violations.add("labels", f"has {len(labels)} entries; at most {_MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not key or len(key) > _MAX_LABEL_CHARS or len(value) > _MAX_LABEL_CHARS:
            violations.add(
                f"labels[{key[:50]}]",
                f"keys have 1 to {_MAX_LABEL_CHARS} characters, values at most {_MAX_LABEL_CHARS}",
            )
