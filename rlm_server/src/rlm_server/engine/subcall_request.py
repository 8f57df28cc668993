"""What code in a REPL asks of models, checked. It comes from untrusted code, which may have got round the prelude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.ports import HostCallError, ValueFormat
from rlm_server.engine.run import UnknownModelError
from rlm_server.engine.text import clean, preview

if TYPE_CHECKING:
    from rlm_server.engine.ports import HostCall
    from rlm_server.engine.run import CompletionSpec

SUBCALL_FUNCTIONS = ("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched")
"""The host functions that make sub-calls. Each takes `prompts`, `model` and `contexts`, and returns a list of results.

The REPL's asynchronous forms call the same: that code need not wait for a host call is up to the prelude.
"""


@dataclass(frozen=True)
class SubcallItem:
    """One prompt of a call. `failure` is the kind and the message if it is not to be asked at all."""

    prompt: str
    context: tuple[ValueFormat, str] | None
    failure: tuple[str, str] | None = None


@dataclass(frozen=True)
class SubcallRequest:
    """A host call, checked."""

    function: str
    items: list[SubcallItem]
    model: str
    batched: bool
    recursive: bool


def read_request(call: HostCall, spec: CompletionSpec, depth: int) -> SubcallRequest:
    """Checks a host call.

    Args:
        call: what code asks.
        spec: the completion's.
        depth: the depth of the node whose code it is.

    Raises:
        HostCallError: the call as a whole is wrong.
    """
    prompts = call.kwargs.get("prompts")
    contexts = call.kwargs.get("contexts")
    model = call.kwargs.get("model")
    if call.args:
        raise HostCallError("bad_call", f"{call.function} takes its arguments by name here")
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise HostCallError("bad_call", "prompts must be a list of texts")
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
    items = [_read_item(clean(prompt), context) for prompt, context in zip(prompts, contexts, strict=True)]
    return SubcallRequest(
        function=call.function,
        items=[_refused_if_too_large(item, spec.limits.max_subcall_prompt_chars, has_repl=has_repl) for item in items],
        model=resolved,
        batched=call.function.endswith("_batched"),
        recursive=is_recursive,
    )


def _default_model(function: str, spec: CompletionSpec, depth: int) -> str:
    is_child = function.startswith("rlm_") and depth < spec.limits.max_depth
    return spec.child_model(depth + 1) if is_child else spec.sub_model


def _read_item(prompt: str, context: object) -> SubcallItem:
    if not prompt.strip():
        return SubcallItem(prompt, None, ("empty_prompt", "the prompt is empty"))
    if context is None:
        return SubcallItem(prompt, None)
    if not isinstance(context, dict):
        raise HostCallError("bad_call", "a context must have a format and a text")
    value_format, text = context.get("format"), context.get("text")
    if value_format not in ("text", "json") or not isinstance(text, str):
        raise HostCallError("bad_call", "a context must have a format and a text")
    if not text:
        return SubcallItem(prompt, None, ("empty_context", "the context is empty"))
    return SubcallItem(prompt, (ValueFormat(value_format), clean(text)))


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
