"""Who uses a blob: the `used_by` of the table `blob_uses`. A blob that nobody uses is deleted."""

from __future__ import annotations

import time
import uuid

ANNOUNCEMENT_PREFIX = "storing/"
"""Beginning of the `used_by` of blobs that are about to be stored, until a row names them."""

CONTEXT_USER_PREFIX = "running/"
"""Beginning of the `used_by` of uploaded contexts that are needed, so that they stay however old they are."""


def context_user(completion_id: str) -> str:
    """Returns the `used_by` of contexts that a completion needs until it ends."""
    return f"{CONTEXT_USER_PREFIX}{completion_id}"


def conversation_user(conversation_id: str) -> str:
    """Returns the `used_by` of contexts that a conversation needs until it is closed."""
    return f"{CONTEXT_USER_PREFIX}conversation/{conversation_id}"


def new_announcement() -> str:
    """Returns the `used_by` of a blob that is about to be stored."""
    return f"{ANNOUNCEMENT_PREFIX}{time.time_ns()}/{uuid.uuid4().hex}"


def age_of_announcement(announcement: str) -> float:
    """Returns how many seconds ago an announcement was made."""
    return (time.time_ns() - int(announcement.removeprefix(ANNOUNCEMENT_PREFIX).partition("/")[0])) / 1e9
