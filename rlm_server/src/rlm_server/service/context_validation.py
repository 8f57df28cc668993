"""Checks the parts of a request's context and makes variables of them."""

from __future__ import annotations

import builtins
import json
import keyword
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.charsets import text_decoder
from rlm_server.engine.images import MEDIA_TYPES, ImageError, check_image
from rlm_server.engine.ports.inputs import InputValue, ValueFormat
from rlm_server.engine.repl.context_parts import ContextPart, describe_image, describe_value
from rlm_server.engine.repl.prelude import REPL_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_api.rlm.v1 import completion_service_pb2 as pb
    from rlm_common.errors import Violations

    from rlm_server.context_uploads import StoredContext
    from rlm_server.contexts import ContextStore

_HISTORY_NAME = re.compile(r"history(_\d+)?")
_HIDEABLE = {"copyright", "credits", "exit", "help", "input", "license", "quit"}
_FUNCTIONS = frozenset(name for name in dir(builtins) if name.islower() and name not in _HIDEABLE)
"""What code in the REPL calls, and could not where a part had the name."""
_MAX_PARTS = 100
_MAX_NAME_CHARS = 100
_MAX_DESCRIPTION_CHARS = 1000


@dataclass(frozen=True)
class CheckedContexts:
    """The context of a request.

    Args:
        parts: its variables.
        stored: the uploaded contexts among them.
        missing: ids of uploaded contexts that are not there.
    """

    parts: list[ContextPart]
    stored: list[StoredContext]
    missing: list[str]


@dataclass(frozen=True)
class _Inline:
    """A value in the request, and the field that it is in."""

    format: ValueFormat
    text: str
    field: str


async def check_contexts(
    parts: Sequence[pb.ContextPart],
    store: ContextStore,
    max_image_bytes: int,
    violations: Violations,
    earlier_names: Sequence[str] | None = None,
) -> CheckedContexts:
    """Returns the variables that the parts make.

    Args:
        parts: the request's.
        store: has the uploaded ones.
        max_image_bytes: how large a picture may be.
        violations: collects wrong fields.
        earlier_names: the variables that earlier parts of the conversation are; None if there is no conversation.
    """
    checked = CheckedContexts([], [], [])
    if not parts and not earlier_names:
        violations.add("contexts", "is empty; give at least one part")
    if len(parts) > _MAX_PARTS:
        violations.add("contexts", f"has {len(parts)} parts; at most {_MAX_PARTS} are allowed: join some of them")
        return checked
    names = _check_names(parts, earlier_names, violations)
    for index, (part, name) in enumerate(zip(parts, names, strict=True)):
        path = f"contexts[{index}]"
        if len(part.description) > _MAX_DESCRIPTION_CHARS:
            violations.add(
                f"{path}.description",
                f"has {len(part.description):,} characters; at most {_MAX_DESCRIPTION_CHARS:,} are allowed",
            )
        if part.WhichOneof("value") == "context_id":
            if violations.check(
                bool(part.context_id), f"{path}.context_id", "is empty; give the id that UploadContext returned"
            ):
                _add_stored(part, name, store, checked)
            continue
        if part.WhichOneof("value") == "image":
            picture = _image_part(part, name, path, max_image_bytes, violations)
            checked.parts.extend([picture] if picture else [])
            continue
        inline = _inline_value(part, path, violations)
        if inline is None:
            continue
        try:
            described = await describe_value(
                name, inline.format, inline.text, description=part.description, with_digest=True
            )
        except ValueError as error:
            violations.add(inline.field, str(error))
        else:
            checked.parts.append(described)
    return checked


def _check_names(
    parts: Sequence[pb.ContextPart], earlier_names: Sequence[str] | None, violations: Violations
) -> list[str]:
    names: list[str] = []
    is_alone = len(parts) == 1 and earlier_names is None
    first_number = len(earlier_names or ())
    for index, part in enumerate(parts):
        name = part.name or ("context" if is_alone else f"context_{first_number + index}")
        problem = _problem_with_name(name, several=len(parts) > 1 or bool(earlier_names))
        if not problem and name in (*(earlier_names or ()), *names):
            problem = f"{name!r} is the name of an earlier part, too; give each its own"
        if problem:
            violations.add(f"contexts[{index}].name", problem)
        names.append(name)
    return names


def _problem_with_name(name: str, *, several: bool) -> str:
    if len(name) > _MAX_NAME_CHARS:
        return f"has {len(name)} characters; at most {_MAX_NAME_CHARS} are allowed"
    if not name.isidentifier() or not name.isascii():
        return f"{name!r} is no Python identifier; use ASCII letters, digits and underscores, as in `report_2024`"
    if keyword.iskeyword(name):
        return f"{name!r} is a Python keyword; choose another name"
    if name.startswith("_"):
        return f"{name!r} begins with an underscore; choose another name"
    if name in REPL_NAMES or _HISTORY_NAME.fullmatch(name):
        return f"{name!r} is a name that the REPL provides itself; choose another"
    if name in _FUNCTIONS:
        return f"{name!r} is a function of Python, which the part would hide; choose another name"
    if several and name == "context":
        return "'context' is the dict of all parts where there are several; choose another name"
    return ""


def _add_stored(part: pb.ContextPart, name: str, store: ContextStore, checked: CheckedContexts) -> None:
    context = store.get(part.context_id)
    if context is None:
        checked.missing.append(part.context_id)
        return
    checked.stored.append(context)
    checked.parts.append(
        ContextPart(
            value=InputValue(name, context.format, context.stored),
            outline=context.outline,
            size_bytes=context.stored.size_bytes,
            sha256=context.stored.sha256,
            description=part.description,
            image=context.image,
        )
    )


def _image_part(
    part: pb.ContextPart, name: str, path: str, max_bytes: int, violations: Violations
) -> ContextPart | None:
    if not violations.check(bool(part.image.data), f"{path}.image.data", "is empty; give the bytes of a picture"):
        return None
    listed = ", ".join(MEDIA_TYPES)
    if not violations.check(
        part.image.media_type in MEDIA_TYPES,
        f"{path}.image.media_type",
        f"{part.image.media_type[:50]!r} is no type that models take; use one of {listed}",
    ):
        return None
    try:
        image = check_image(part.image.data, part.image.media_type, max_bytes)
    except ImageError as error:
        violations.add(f"{path}.image.data", str(error))
        return None
    return describe_image(name, image, description=part.description)


def _inline_value(part: pb.ContextPart, path: str, violations: Violations) -> _Inline | None:
    kind = part.WhichOneof("value")
    if kind == "text":
        if violations.check(bool(part.text), f"{path}.text", "is empty; give some text"):
            return _Inline(ValueFormat.TEXT, part.text, f"{path}.text")
    elif kind == "json":
        if violations.check(bool(part.json), f"{path}.json", "is empty; give a JSON document"):
            return _Inline(ValueFormat.JSON, part.json, f"{path}.json")
    elif kind == "documents":
        return _documents_value(part.documents, f"{path}.documents", violations)
    elif kind == "encoded":
        return _encoded_value(part.encoded, f"{path}.encoded", violations)
    else:
        violations.add(f"{path}.value", "is not set; set one of text, json, documents, context_id, encoded, image")
    return None


def _documents_value(documents: pb.Documents, path: str, violations: Violations) -> _Inline | None:
    if not violations.check(bool(documents.documents), path, "is empty; give at least one document"):
        return None
    seen: set[str] = set()
    for index, document in enumerate(documents.documents):
        if document.id in seen:
            violations.add(
                f"{path}.documents[{index}].id",
                f"{document.id[:100]!r} is the id of an earlier document, too; give each its own",
            )
        seen.add(document.id)
    value = [
        {"id": document.id, "text": document.text, "metadata": dict(document.metadata)}
        for document in documents.documents
    ]
    return _Inline(ValueFormat.JSON, json.dumps(value, ensure_ascii=False), path)


def _encoded_value(encoded: pb.EncodedText, path: str, violations: Violations) -> _Inline | None:
    if not violations.check(bool(encoded.data), f"{path}.data", "is empty; give some text"):
        return None
    try:
        decoder = text_decoder(encoded.charset)
    except LookupError as error:
        violations.add(f"{path}.charset", str(error))
        return None
    try:
        text = decoder.decode(encoded.data, final=True)
        text.encode()
    except UnicodeDecodeError as error:
        violations.add(f"{path}.data", f"is not {encoded.charset}: {error.reason} at byte {error.start:,}")
        return None
    except UnicodeEncodeError as error:
        violations.add(f"{path}.data", f"has half of a surrogate pair, which is no text, at character {error.start:,}")
        return None
    if violations.check(bool(text), f"{path}.data", "is empty; give some text"):
        return _Inline(ValueFormat.TEXT, text, f"{path}.data")
    return None
