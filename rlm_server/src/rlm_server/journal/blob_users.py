"""Who uses a blob: the `used_by` of the table `blob_uses`. A blob that nobody uses is deleted."""

from __future__ import annotations

CONTEXT_USER_PREFIX = "running/"
"""Beginning of the `used_by` of uploaded contexts that are needed, so that they stay however old they are."""


def context_user(completion_id: str) -> str:
    """Returns the `used_by` of contexts that a completion needs until it ends."""
    return f"{CONTEXT_USER_PREFIX}{completion_id}"


def conversation_user(conversation_id: str) -> str:
    """Returns the `used_by` of contexts that a conversation needs until it is closed."""
    return f"{CONTEXT_USER_PREFIX}conversation/{conversation_id}"
