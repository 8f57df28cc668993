"""Page tokens of what is listed latest first: they hold the place where the next page begins."""

from __future__ import annotations

import base64
import binascii


def to_token(create_time: int, item_id: str) -> str:
    """Returns the token of the page after an item.

    Args:
        create_time: when the item began, in nanoseconds since the epoch.
        item_id: its id.
    """
    return base64.urlsafe_b64encode(f"{create_time}/{item_id}".encode()).decode()


def from_token(token: str) -> tuple[int, str] | None:
    """Returns what `to_token` was given; None if the token is none of its."""
    try:
        create_time, _, item_id = base64.urlsafe_b64decode(token.encode()).decode().partition("/")
        return (int(create_time), item_id) if item_id else None
    except (ValueError, binascii.Error):
        return None
