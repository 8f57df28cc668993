"""Lists of documents, as JSON."""

from __future__ import annotations

import json
from typing import Any

_DOCUMENT_KEYS = frozenset({"id", "text", "metadata"})


def check_documents(text: str) -> None:
    """Checks that a JSON document is a list of documents: objects with `id`, `text` and perhaps `metadata`.

    Raises:
        ValueError: it is none; the message says where. That it is JSON at all is not checked here.
    """
    try:
        documents = json.loads(text, object_hook=_Document)
    except (ValueError, RecursionError):
        return
    if not isinstance(documents, list) or not documents:
        raise ValueError("it is no list of documents")
    seen: set[str] = set()
    for index, document in enumerate(documents):
        problem = document.problem if isinstance(document, _Document) else "is no object"
        if not problem and document.id in seen:
            problem = f"has the id {document.id[:100]!r} of an earlier one"
        if problem:
            raise ValueError(
                f"document [{index}] {problem}; each needs a unique `id`, a `text`, and no more but `metadata`"
            )
        seen.add(document.id)


class _Document:
    """A JSON object, as a document; its text is not kept."""

    __slots__ = ("id", "problem")

    def __init__(self, value: dict[str, Any]) -> None:
        self.id = value.get("id")
        self.problem = ""
        if not isinstance(self.id, str) or not isinstance(value.get("text"), str):
            self.problem = "lacks an `id` or a `text`, or one that is no text"
        elif not isinstance(value.get("metadata", self), _Document):
            self.problem = "has a `metadata` that is no object"
        elif unknown := sorted(set(value) - _DOCUMENT_KEYS):
            self.problem = f"has {unknown[0][:50]!r}"
