"""What code in a REPL asks of models, checked. It comes from untrusted code, which may have got round the prelude."""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.images import Image, ImageError, check_image, text_of
from rlm_server.engine.ports.host_calls import HostCallError
from rlm_server.engine.ports.inputs import ValueFormat
from rlm_server.engine.run import UnknownModelError
from rlm_server.engine.text import clean, preview

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rlm_server.engine.images import Content
    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.run import CompletionSpec

SUBCALL_FUNCTIONS = ("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched")
"""The host functions that make sub-calls. Each takes `prompts`, `model` and `contexts`, and returns a list of results.

The REPL's asynchronous forms call the same: that code need not wait for a host call is up to the prelude.
"""


_MOST_CHARS_PER_TOKEN = 5
"""What few texts exceed: a prompt with more for each token of the model's window is not sent to it."""


@dataclass(frozen=True)
class SubcallItem:
    """One prompt of a call.

    Args:
        content: the prompt, with pictures if it has any.
        context: what a child RLM is given, if it is given something.
        failure: kind and message, if it is not to be asked at all.
        context_images: the pictures in the context.
    """

    content: Content
    context: tuple[ValueFormat, str] | None
    failure: tuple[str, str] | None = None
    context_images: tuple[Image, ...] = ()

    @property
    def prompt(self) -> str:
        """The text of the prompt."""
        return text_of(self.content)

    @property
    def plain_content(self) -> Content:
        """What a plain model call is asked: the prompt with the context after it."""
        if self.context is None:
            return self.content
        text = f"{self.prompt}\n\nContext:\n{self.context[1]}"
        if not self.context_images:
            return text
        labelled = [part for n, image in enumerate(self.context_images) for part in (f"Image {n}:", image)]
        return (text, *labelled)


@dataclass(frozen=True)
class SubcallRequest:
    """A host call, checked."""

    function: str
    items: list[SubcallItem]
    model: str
    batched: bool
    recursive: bool


def read_request(
    call: HostCall, spec: CompletionSpec, depth: int, window_tokens: Callable[[str], int | None]
) -> SubcallRequest:
    """Checks a host call.

    Args:
        call: what code asks.
        spec: the completion's.
        depth: the depth of the node whose code it is.
        window_tokens: returns the size of a model's window, if it is known.

    Raises:
        HostCallError: the call as a whole is wrong.
    """
    prompts = call.kwargs.get("prompts")
    contexts = call.kwargs.get("contexts")
    model = call.kwargs.get("model")
    if call.args:
        raise HostCallError("bad_call", f"{call.function} takes its arguments by name here")
    if not isinstance(prompts, list):
        raise HostCallError("bad_call", "prompts must be a list of texts")
    images = _read_images(call.kwargs.get("images"), spec.max_image_bytes)
    if model is not None and not isinstance(model, str):
        raise HostCallError("bad_call", "model must be the name of a model")
    if contexts is None:
        contexts = [None] * len(prompts)
    if not isinstance(contexts, list) or len(contexts) != len(prompts):
        raise HostCallError("bad_call", "contexts must be a list with one context for each prompt")
    try:
        resolved = spec.resolve_model(model) if model else _default_model(call.function, spec, depth)
    except UnknownModelError as error:
        raise HostCallError("unknown_model", str(error)) from None
    is_recursive = call.function.startswith("rlm_")
    has_repl = is_recursive and depth < spec.limits.max_depth
    items = [_read_item(prompt, context, images) for prompt, context in zip(prompts, contexts, strict=True)]
    limit_chars = spec.limits.max_subcall_prompt_chars
    if (window := window_tokens(resolved)) is not None:
        limit_chars = min(limit_chars, window * _MOST_CHARS_PER_TOKEN)
    return SubcallRequest(
        function=call.function,
        items=[_refused_if_too_large(item, limit_chars, has_repl=has_repl) for item in items],
        model=resolved,
        batched=call.function.endswith("_batched"),
        recursive=is_recursive,
    )


def _default_model(function: str, spec: CompletionSpec, depth: int) -> str:
    is_child = function.startswith("rlm_") and depth < spec.limits.max_depth
    return spec.child_model(depth + 1) if is_child else spec.sub_model


def _read_item(prompt: object, context: object, images: Sequence[Image | ImageError]) -> SubcallItem:
    parts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(parts, list) or not all(isinstance(part, str) or _is_number(part, images) for part in parts):
        raise HostCallError("bad_call", "a prompt must be text, or a list of texts and images")
    given, inner = (None, []) if context is None else _read_context(context, images)
    known: dict[int, Image] = {}
    for number in [*(part for part in parts if not isinstance(part, str)), *inner]:
        image = images[number]
        if isinstance(image, ImageError):
            return SubcallItem("", None, ("bad_image", f"an image cannot be sent: {image}"))
        known[number] = image
    content = tuple(clean(part) if isinstance(part, str) else known[part] for part in parts)
    item = SubcallItem(
        text_of(content) if isinstance(prompt, str) else content,
        given,
        context_images=tuple(known[number] for number in inner),
    )
    if not item.prompt.strip():
        return dataclasses.replace(item, failure=("empty_prompt", "the prompt is empty"))
    if given is not None and not given[1]:
        return dataclasses.replace(item, failure=("empty_context", "the context is empty"))
    return item


def _read_context(context: object, images: Sequence[Image | ImageError]) -> tuple[tuple[ValueFormat, str], list[int]]:
    """Returns format and text of a context, and the numbers of its pictures."""
    if not isinstance(context, dict):
        raise HostCallError("bad_call", "a context must have a format and a text")
    value_format, text, inner = context.get("format"), context.get("text"), context.get("images", [])
    if value_format not in ("text", "json") or not isinstance(text, str):
        raise HostCallError("bad_call", "a context must have a format and a text")
    if not isinstance(inner, list) or not all(_is_number(one, images) for one in inner):
        raise HostCallError("bad_call", "the images of a context must be some of the call's")
    return (ValueFormat(value_format), clean(text)), inner


def _read_images(images: object, max_bytes: int) -> list[Image | ImageError]:
    """Returns the pictures of a call, or why one cannot be sent."""
    if images is None:
        return []
    if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
        raise HostCallError("bad_call", "images must be a list of objects")
    read: list[Image | ImageError] = []
    for one in images:
        try:
            data = base64.b64decode(str(one.get("data")), validate=True)
            read.append(check_image(data, str(one.get("media_type")), max_bytes))
        except ImageError as error:
            read.append(error)
        except ValueError:
            raise HostCallError("bad_call", "the data of an image must be base64") from None
    return read


def _is_number(value: object, images: Sequence[Image | ImageError]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(images)


def _refused_if_too_large(item: SubcallItem, limit_chars: int, *, has_repl: bool) -> SubcallItem:
    if has_repl:  # the context is a variable there, and so is a prompt without one
        chars = len(item.prompt) if item.context else 0
    else:
        chars = len(item.prompt) + (len(item.context[1]) if item.context else 0)
    if item.failure is not None or chars <= limit_chars:
        return item
    hint = "Select what matters with Python first, or split the text and send several prompts in a batch"
    if has_repl:
        hint = "Give the text as context=..., and as the prompt only what is to be done with it"
    message = f"the prompt has {chars:,} characters, and at most {limit_chars:,} are sent; nothing was asked. {hint}"
    return SubcallItem(item.prompt, None, ("prompt_too_large", message))


def unknown_function(name: str) -> HostCallError:
    """Returns the answer to a call of what is no host function."""
    return HostCallError("bad_call", f"there is no such call as {preview(name, 100)}")
