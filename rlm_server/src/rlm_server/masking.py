"""Keeps secrets out of what people are shown of settings: of addresses, of headers and bodies, of messages."""

from __future__ import annotations

import pathlib
import re
from typing import Any

MASK = "********"
"""Stands for a secret."""

_TELLING = r"[\w.-]*(?:key|token|secret|passw|pwd|signature|authorization|credential)[\w.-]*"
_KEY = re.compile(_TELLING, re.IGNORECASE)
_USER = re.compile(r"(?<=://)(?P<user>[^/?#@:\s]*:)?[^/?#\s]*@")
_PARAMETER = re.compile(rf"(?<=[?&])(?P<name>{_TELLING}=)[^&#\s]+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Returns a text with the addresses in it masked: passwords, users that have none, and parameters that are keys."""
    masked = _USER.sub(lambda found: f"{found['user'] or ''}{MASK}@", text)
    return _PARAMETER.sub(rf"\g<name>{MASK}", masked)


def masked(value: Any) -> Any:
    """Returns a value of settings with all addresses in it masked, and texts in tables whose names say secret."""
    if isinstance(value, str | pathlib.Path):
        return without_secrets(str(value))
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(one, str) and _KEY.fullmatch(str(key)) else masked(one)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    return value
