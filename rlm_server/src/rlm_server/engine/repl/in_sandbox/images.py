# ruff: noqa: TC004 - what is imported for the type checker is there, as all of this runs in one module
"""Pictures in the REPL, and in prompts and contexts. See `prelude.py`."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm_server.engine.repl.in_sandbox.answers import _render
    from rlm_server.engine.repl.in_sandbox.prelude import variables


class Image:
    """A picture. Models see it where it is passed on: `llm_query(["What is this?", image])`, or `images=[image]`.

    Attributes:
        data: its bytes.
        media_type: what they are, as `image/png`.
        width: in pixels, if it is known; likewise `height`.
    """

    def __init__(self, data: bytes, media_type: str, width: int | None = None, height: int | None = None) -> None:
        if not isinstance(data, bytes | bytearray):
            raise TypeError(f"an image's data must be bytes, not {type(data).__name__}")
        self.data = bytes(data)
        self.media_type = str(media_type)
        self.width = width
        self.height = height

    @property
    def size_bytes(self) -> int:
        """How many bytes there are."""
        return len(self.data)

    def __repr__(self) -> str:
        pixels = f"{self.width} x {self.height} pixels, " if self.width else ""
        return f"<Image {self.media_type}, {pixels}{len(self.data):,} bytes>"


class _Pictures:
    """The pictures of one call, each once however many prompts have it."""

    def __init__(self) -> None:
        self._images: list[Image] = []

    def prompt(self, prompt: object) -> str | list[str | int]:
        """Returns a prompt as text, or as a list of texts and numbers of pictures."""
        if isinstance(prompt, Image):
            prompt = [prompt]
        if not _has_images(prompt):
            return _render(prompt)
        parts: Any = prompt
        return [self._number(part) if isinstance(part, Image) else _render(part) for part in parts]

    def context(self, context: object) -> dict[str, Any]:
        """Returns the context of a child RLM; in JSON a picture is an object with its place in `images`."""
        if context is None:
            return {"format": "text", "text": ""}
        if isinstance(context, str):
            return {"format": "text", "text": context}
        numbers: list[int] = []

        def encode(value: object) -> dict[str, int]:
            if not isinstance(value, Image):
                raise TypeError(f"{type(value).__name__} is no JSON value")
            numbers.append(self._number(value))
            return {"__image__": len(numbers) - 1}

        try:
            encoded = {"format": "json", "text": json.dumps(context, default=encode)}
        except (TypeError, ValueError) as error:
            raise TypeError(f"a context must be text, images, or what JSON can express: {error}") from None
        return encoded | {"images": numbers} if numbers else encoded

    def arguments(self) -> dict[str, Any]:
        """Returns the pictures as arguments of the host call."""
        if not self._images:
            return {}
        images = [
            {"media_type": image.media_type, "data": base64.b64encode(image.data).decode()} for image in self._images
        ]
        return {"images": images}

    def _number(self, image: Image) -> int:
        for number, known in enumerate(self._images):
            if known is image:
                return number
        self._images.append(image)
        return len(self._images) - 1


def _has_images(prompt: object) -> bool:
    return isinstance(prompt, list | tuple) and any(isinstance(part, Image) for part in prompt)


def _with_images(prompt: Any, images: Any) -> Any:
    """Returns a prompt as a list, with the pictures that belong to it at its end."""
    images = [] if images is None else [images] if isinstance(images, Image) else list(images)
    if not all(isinstance(image, Image) for image in images):
        raise TypeError("images must be Image objects, as in images=[image] or, for a batch, images=[[image], [image]]")
    if not images:
        return prompt
    return [*(prompt if _has_images(prompt) else [prompt]), *images]


def _images_to_contexts(prompts: list[Any], contexts: list[Any] | None) -> tuple[list[Any], list[Any] | None]:
    """Makes the pictures in prompts of child RLMs their context, since such a model sees no pictures by itself."""
    if not any(_has_images(prompt) for prompt in prompts):
        return prompts, contexts
    texts, given = [], contexts or [None] * len(prompts)
    for number, prompt in enumerate(prompts):
        if not _has_images(prompt):
            texts.append(prompt)
            continue
        if given[number] is not None:
            raise TypeError("give images to a child RLM in its context, as context={'photo': image, 'notes': text}")
        texts.append("\n\n".join(_render(part) for part in prompt if not isinstance(part, Image)))
        given[number] = [part for part in prompt if isinstance(part, Image)]
    return texts, given


def _revived(value: Any, images: list[Image]) -> Any:
    """Returns a JSON value with its pictures in their places."""
    if isinstance(value, list):
        return [_revived(one, images) for one in value]
    if isinstance(value, dict):
        number = value.get("__image__")
        if len(value) == 1 and isinstance(number, int) and 0 <= number < len(images):
            return images[number]
        return {key: _revived(one, images) for key, one in value.items()}
    return value


def _set_images(images: dict[str, tuple[str, int, int]], inner_images: list[tuple[str, int, int]]) -> None:
    """Makes pictures of the inputs that are some; must come before `_configure`.

    Args:
        images: type, width and height of those that are parts of the context, by their names.
        inner_images: the same of pictures within `context`, whose bytes are in variables `_image_0` and so on.
    """
    for name, (media_type, width, height) in images.items():
        variables[name] = Image(variables[name], media_type, width, height)
    if inner_images:
        pictures = [
            Image(variables.pop(f"_image_{number}"), media_type, width, height)
            for number, (media_type, width, height) in enumerate(inner_images)
        ]
        variables["context"] = _revived(variables["context"], pictures)
