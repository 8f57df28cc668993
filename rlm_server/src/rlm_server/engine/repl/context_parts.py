"""The parts of a node's context."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.ports.inputs import InputValue, ValueFormat
from rlm_server.engine.repl.outlines import outline_image, outline_json, outline_text

if TYPE_CHECKING:
    from rlm_server.engine.images import Image, ImageInfo
    from rlm_server.engine.repl.outlines import Outline

_LARGE_CHARS = 256 * 1024
"""Longer texts would hold up the event loop."""


@dataclass(frozen=True)
class ContextPart:
    """A part of a node's context.

    Args:
        value: the variable.
        outline: what the model is told of it.
        size_bytes: size of the UTF-8 text or JSON.
        sha256: digest of those bytes; empty if nobody needs it.
        description: what the caller said about it.
        image: what is known of it, if it is a picture.
        inner_images: the pictures that a JSON document has in it.
    """

    value: InputValue
    outline: Outline
    size_bytes: int
    sha256: str = ""
    description: str = ""
    image: ImageInfo | None = None
    inner_images: tuple[Image, ...] = ()

    @property
    def inputs(self) -> list[InputValue]:
        """What a session is given for it."""
        inner = [
            InputValue(f"_image_{number}", ValueFormat.BYTES, image.data)
            for number, image in enumerate(self.inner_images)
        ]
        return [self.value, *inner]

    def to_proto(self) -> event_pb2.ContextInfo:
        """Returns the message."""
        return event_pb2.ContextInfo(
            name=self.value.name,
            type=self.outline.type_name,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            description=self.description,
        )


async def describe_value(
    name: str,
    value_format: ValueFormat,
    text: str,
    *,
    description: str = "",
    with_digest: bool = False,
    inner_images: tuple[Image, ...] = (),
) -> ContextPart:
    """Returns the part of a context that a text or JSON document at hand makes. What is large is read on a thread.

    Args:
        name: the variable's name.
        value_format: what the text is.
        text: the value.
        description: what the caller said about it.
        with_digest: fills in `sha256`.
        inner_images: the pictures that a JSON document has in it.

    Raises:
        ValueError: the text is no JSON document, though it should be one.
    """

    def describe() -> ContextPart:
        data = b"" if text.isascii() and not with_digest else text.encode()
        outline = outline_text(text) if value_format is ValueFormat.TEXT else outline_json(text)
        if inner_images:
            lines = [outline.details, "where {'__image__': n} stands there is an Image object:"]
            lines += [f"n={n}: {outline_image(image.info).size}" for n, image in enumerate(inner_images)]
            outline = dataclasses.replace(outline, details="\n".join(lines))
        return ContextPart(
            value=InputValue(name, value_format, text),
            outline=outline,
            size_bytes=len(data) or len(text),
            sha256=hashlib.sha256(data).hexdigest() if with_digest else "",
            description=description,
            inner_images=inner_images,
        )

    return await asyncio.to_thread(describe) if len(text) > _LARGE_CHARS else describe()


def describe_image(name: str, image: Image, *, description: str = "") -> ContextPart:
    """Returns the part of a context that a picture makes."""
    return ContextPart(
        value=InputValue(name, ValueFormat.BYTES, image.data),
        outline=outline_image(image.info),
        size_bytes=len(image.data),
        sha256=hashlib.sha256(image.data).hexdigest(),
        description=description,
        image=image.info,
    )
