"""What one model's endpoint takes of the fields on which endpoints for chat completions differ."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_NEW_LIMIT = "max_completion_tokens"
_OLD_LIMIT = "max_tokens"
_STREAM_OPTIONS = "stream_options"

_OPENAI_HOSTS = ("openai.com", "openai.azure.com", "ai.azure.com", "azure-api.net")
"""Whose newer models refuse the old name of the limit. Others' servers may not know the new one, and some of them then
make replies without any limit, and say nothing."""

_NOT_TAKEN = re.compile(
    r"extra inputs? (?:are|is) not permitted|extra_forbidden|unsupported|not supported|unrecognized|unknown|unexpected"
    r"|not allowed|not permitted|no such field",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Dialect:
    """What an endpoint takes.

    Args:
        limit_field: what it calls the limit of a reply.
        takes_stream_options: whether it can be asked for the usage of a streamed reply.
    """

    limit_field: str = _NEW_LIMIT
    takes_stream_options: bool = True

    @classmethod
    def expected_of(cls, base_url: str | None) -> Dialect:
        """Returns what is likely, until the endpoint has said something else.

        Args:
            base_url: the endpoint's; None means OpenAI's.
        """
        host = urlsplit(base_url).hostname or "" if base_url is not None else _OPENAI_HOSTS[0]
        is_openais = any(host == known or host.endswith(f".{known}") for known in _OPENAI_HOSTS)
        return cls(_NEW_LIMIT if is_openais else _OLD_LIMIT)

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a body as the endpoint takes it."""
        fields = dict(body)
        if _NEW_LIMIT in fields:
            fields[self.limit_field] = fields.pop(_NEW_LIMIT)
        if not self.takes_stream_options:
            fields.pop(_STREAM_OPTIONS, None)
        return fields

    def learn(self, refusal: str) -> Dialect | None:
        """Returns what to speak after a refusal; None if it is about something else.

        Args:
            refusal: what the endpoint said.
        """
        if not _NOT_TAKEN.search(refusal):
            return None
        # "Unsupported parameter: 'max_tokens' ... Use 'max_completion_tokens' instead." names both: the first is meant.
        name = min(
            (one for one in (_NEW_LIMIT, _OLD_LIMIT, _STREAM_OPTIONS) if one in refusal),
            key=refusal.index,
            default=None,
        )
        if name == self.limit_field:
            other = _OLD_LIMIT if name == _NEW_LIMIT else _NEW_LIMIT
            return dataclasses.replace(self, limit_field=other)
        if name == _STREAM_OPTIONS and self.takes_stream_options:
            return dataclasses.replace(self, takes_stream_options=False)
        return None
