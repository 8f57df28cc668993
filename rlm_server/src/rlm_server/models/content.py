"""What messages say, in the forms that endpoints take: text as it is, pictures as data URLs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm_server.engine.images import Image
    from rlm_server.engine.ports.models import Message


def chat_content(message: Message) -> str | list[dict[str, Any]]:
    """Returns the `content` of a message of the chat completions API."""
    if not message.parts:
        return message.content
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": _data_url(part)}}
        for part in message.parts
    ]


def responses_content(message: Message) -> str | list[dict[str, Any]]:
    """Returns the `content` of a message of the responses API."""
    if not message.parts:
        return message.content
    return [
        {"type": "input_text", "text": part}
        if isinstance(part, str)
        else {"type": "input_image", "image_url": _data_url(part)}
        for part in message.parts
    ]


def _data_url(image: Image) -> str:
    return f"data:{image.info.media_type};base64,{base64.b64encode(image.data).decode()}"
