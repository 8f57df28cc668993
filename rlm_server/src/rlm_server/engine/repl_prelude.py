# ruff: noqa: F821 - the names that are declared without a value are given by the sandbox
"""The vocabulary of the REPL. This source is sent to sandboxes and runs there, not in the server.

Its environment is that of `Prelude` in `proto/sandbox/v1/execute_service.proto`: the names declared below are given,
the names in `__all__` become variables of the session. `_configure` is called by a line that the engine appends.
"""

from __future__ import annotations

import asyncio
import base64
import collections.abc
import contextlib
import dataclasses
import itertools
import json
import types
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

variables: dict[str, Any]
host_call: Callable[..., Any]
host_submit: Callable[..., Any]
HostCallError: Any
StopCell: type[BaseException]

__all__ = [
    "FINAL",
    "FINAL_VAR",
    "SHOW_VARS",
    "Image",
    "SubcallError",
    "ToolError",
    "_begin_completion",
    "answer",
    "budget",
    "llm_query",
    "llm_query_async",
    "llm_query_batched",
    "llm_query_batched_async",
    "rlm_query",
    "rlm_query_async",
    "rlm_query_batched",
    "rlm_query_batched_async",
]

_MAX_ANSWER_CHARS = 1_000_000
_MAX_LISTED_VARIABLES = 200

_NO_VALUES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
_MISSING = object()

answer: dict[str, Any] = {"content": "", "ready": False}
_call_numbers = itertools.count()
_begun: weakref.WeakSet[Subcall] = weakref.WeakSet()
"""The sub-calls of the block that runs."""

_final: list[dict[str, str]] = []
_given: dict[str, Any] = {}
_typed: list[str] = []
_in_order: list[bool] = []
"""Is not empty if code waits for each sub-call, so that what it does meanwhile depends on nothing that takes time."""


class SubcallError(Exception):
    """A sub-call that failed. It is false in a boolean test, and no str, so that it is not taken for a reply.

    In a list of replies it stands for one of them, and must not pass for text: what would make text of it (`str`,
    `format`, a prompt, an answer) raises it instead. Once it was raised, `str` gives its text, as of any exception.

    Attributes:
        kind: what went wrong, as `refused`, `overloaded` or `max_iterations`.
        message: the same for people.
        partial_answer: the best that a child RLM had when it ended without an answer; may be empty.
    """

    def __init__(self, message: str, kind: str = "failed", partial_answer: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.partial_answer = partial_answer

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        if self.__traceback__ is None:
            raise self
        return f"Error: {self.message}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return f"SubcallError({self.message!r}, kind={self.kind!r})"


class ToolError(Exception):
    """A tool that failed.

    Attributes:
        kind: what went wrong: `tool_failed`, `timeout` or `client_gone`.
        message: the same for people.
    """

    def __init__(self, message: str, kind: str = "tool_failed") -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


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


class Subcall(collections.abc.Coroutine[Any, Any, Any]):
    """A sub-call that has begun: await it, or call `result()`. What it gives is what the plain function returns.

    It is a coroutine, so that `asyncio.create_task` and task groups take it, too.
    """

    def __init__(self, number: int, call: Any, read: Callable[[list[Any]], Any]) -> None:
        self._number = number
        self._call = call
        self._read = read
        self._steps: Generator[Any, Any, Any] | None = None
        self._is_over = False
        _begun.add(self)

    def done(self) -> bool:
        """Tells whether the reply is here; does not wait."""
        return self._is_over or bool(self._call.done())

    def result(self) -> Any:
        """Waits for the reply and returns it, or raises SubcallError."""
        if self._is_over:
            raise SubcallError("the block that made the call ended before the reply came", "cancelled")
        try:
            results = self._call.result()
        except HostCallError as error:
            raise SubcallError(error.message, error.type) from None
        return self._read(results)

    def cancel(self) -> None:
        """Stops the call, if its reply is not here: it costs nothing more, and `result` raises SubcallError."""
        if not self.done():
            host_submit("cancel_subcall", number=self._number)

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            if not self._is_over:
                with contextlib.suppress(HostCallError):  # `result` raises it in the form that code knows
                    yield from self._call.__await__()
        except asyncio.CancelledError:  # as by a time-out
            self.cancel()
            raise
        return self.result()

    def send(self, value: Any) -> Any:
        """Does a step of the coroutine."""
        return self._running().send(value)

    def throw(self, *error: Any) -> Any:
        """Raises an exception where the coroutine waits."""
        if self._steps is None:  # a task that was cancelled before it began
            self.cancel()
        return self._running().throw(*error)

    def close(self) -> None:
        """Waits no longer."""
        if self._steps is not None:
            self._steps.close()

    def end_with_block(self) -> None:
        """Takes note that the block is over, with which calls end that are not answered."""
        self._is_over = not self.done()

    def __repr__(self) -> str:
        return "<Subcall: await it, or call its result()>"

    def _running(self) -> Generator[Any, Any, Any]:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps


class UnknownVariableError(NameError):
    """FINAL_VAR was given a name that does not exist."""


def llm_query(prompt: object, model: Any = None, *, images: Any = None) -> str:
    """Asks a language model; returns its reply, or raises SubcallError."""
    return str(_single("llm_query", prompt, model, None, images).result())


def llm_query_async(prompt: object, model: Any = None, *, images: Any = None) -> Subcall:
    """Begins an `llm_query`; await what this returns, or call its `result()`."""
    return _single("llm_query", prompt, model, None, images)


def llm_query_batched(prompts: Any, model: Any = None, *, images: Any = None) -> list[Any]:
    """Asks a language model several things at once; returns replies in order, a SubcallError where one failed."""
    return list(_batch("llm_query_batched", prompts, model, None, images).result())


def llm_query_batched_async(prompts: Any, model: Any = None, *, images: Any = None) -> Subcall:
    """Begins an `llm_query_batched`; await what this returns, or call its `result()`."""
    return _batch("llm_query_batched", prompts, model, None, images)


def rlm_query(prompt: object, model: Any = None, *, context: object = None, images: Any = None) -> str:
    """Asks a model that has a REPL of its own, whose `context` is the one given, or else the prompt."""
    return str(_single("rlm_query", prompt, model, context, images).result())


def rlm_query_async(prompt: object, model: Any = None, *, context: object = None, images: Any = None) -> Subcall:
    """Begins an `rlm_query`; await what this returns, or call its `result()`."""
    return _single("rlm_query", prompt, model, context, images)


def rlm_query_batched(prompts: Any, model: Any = None, *, contexts: Any = None, images: Any = None) -> list[Any]:
    """Does the same for several prompts at once; `contexts`, if given, has one for each."""
    return list(_batch("rlm_query_batched", prompts, model, contexts, images).result())


def rlm_query_batched_async(prompts: Any, model: Any = None, *, contexts: Any = None, images: Any = None) -> Subcall:
    """Begins an `rlm_query_batched`; await what this returns, or call its `result()`."""
    return _batch("rlm_query_batched", prompts, model, contexts, images)


def budget() -> dict[str, Any]:
    """Returns what is left: a dict of numbers, None where there is no limit."""
    return dict(host_call("budget"))


def SHOW_VARS() -> str:  # noqa: N802 - the name that models were taught
    """Returns the names of your variables with their types."""
    found = _user_variables()
    if not found:
        return "No variables yet."
    lines = [f"{name}: {type(value).__name__}" for name, value in list(found.items())[:_MAX_LISTED_VARIABLES]]
    if len(found) > _MAX_LISTED_VARIABLES:
        lines.append(f"... and {len(found) - _MAX_LISTED_VARIABLES} more")
    return "\n".join(lines)


def FINAL(value: object) -> None:  # noqa: N802 - the name that models were taught
    """Gives the answer and ends the block."""
    if isinstance(value, _NO_VALUES):
        raise TypeError(f"the answer is a {type(value).__name__}, not a value; give what it returns or holds")
    given = _as_answer(value)
    if not given["text"].strip():
        raise ValueError("the answer is empty")
    if len(given["text"]) > _MAX_ANSWER_CHARS:
        raise ValueError(
            f"the answer has {len(given['text']):,} characters; at most {_MAX_ANSWER_CHARS:,} can be given"
        )
    if not _final:
        _final.append(given)
    raise StopCell


def FINAL_VAR(name_or_value: object) -> None:  # noqa: N802 - the name that models were taught
    """Gives the value of a variable as the answer and ends the block."""
    if isinstance(name_or_value, str):
        name = name_or_value.strip().strip("'\"")
        if name in variables:
            FINAL(variables[name])
        # `FINAL_VAR(result)` instead of `FINAL_VAR("result")`: what arrives is a variable's value.
        is_value = any(value is name_or_value for value in variables.values())
        if name.isidentifier() and not is_value:
            known = ", ".join(list(map(str, _user_variables()))[:_MAX_LISTED_VARIABLES]) or "none"
            raise UnknownVariableError(f"there is no variable {name!r}; there are: {known}")
    FINAL(name_or_value)


def after_cell() -> dict[str, Any]:
    """Reports to the engine.

    Returns:
        A dict with those of the keys that apply: `final` and `answer`, the answer that FINAL or the dict `answer` gave,
        each a dict with `text` and `form` (`text`, or `json` for what was no text and must match a schema); `draft`,
        the text of an answer that is not declared final; `problem`, why an answer was not taken; `names`, the variables
        that hold values; `restored`, the names of the REPL that code had rebound.
    """
    for call in list(_begun):
        call.end_with_block()
    _begun.clear()
    report: dict[str, Any] = {"names": _value_names()}
    restored = _restore_names()
    if restored:
        report["restored"] = restored
    current = variables.get("answer")
    if isinstance(current, dict) and current is not answer:
        answer.update((key, current[key]) for key in ("content", "ready") if key in current)
    is_ready = bool(answer.get("ready"))
    # A flag that stays would end a later turn, whatever that turn finds.
    answer["ready"] = False
    given = {"text": "", "form": "text"}
    try:
        if answer.get("content") is not None:
            given = _as_answer(answer["content"])
    except Exception as error:  # noqa: BLE001 - whatever the user's value raises
        if is_ready:
            report["problem"] = f'answer["content"] cannot be given: {type(error).__name__}: {error}'
            is_ready = False
    if is_ready:
        if not given["text"].strip():
            report["problem"] = 'answer["ready"] is set but answer["content"] is empty'
        elif len(given["text"]) > _MAX_ANSWER_CHARS:
            report["problem"] = f"it has {len(given['text']):,} characters; at most {_MAX_ANSWER_CHARS:,} can be given"
        else:
            report["answer"] = given
    if _final:
        report["final"] = _final.pop()
    elif given["text"] and "answer" not in report:
        report["draft"] = given["text"][:_MAX_ANSWER_CHARS]
    return report


def _single(function: str, prompt: object, model: Any, context: object, images: Any) -> Subcall:
    contexts = None if context is None else [context]
    return _begin(function, [prompt], model, contexts, _read_single, images=None if images is None else [images])


def _batch(function: str, prompts: Any, model: Any, contexts: Any, images: Any) -> Subcall:
    if isinstance(prompts, str | bytes | dict):
        raise TypeError(f"{function} takes a list of prompts, not one {type(prompts).__name__}")
    prompts = list(prompts)
    contexts, images = _one_each("context", contexts, prompts), _one_each("image", images, prompts)
    return _begin(function, prompts, model, contexts, _read_batch, images=images)


def _one_each(noun: str, values: Any, prompts: list[Any]) -> list[Any] | None:
    if values is None:
        return None
    if isinstance(values, str | bytes | dict | Image):
        raise TypeError(f"{noun}s must be a list with one {noun} for each prompt, not {type(values).__name__}")
    each = list(values)
    if len(each) != len(prompts):
        raise ValueError(f"there are {len(prompts)} prompts but {len(each)} {noun}s")
    return each


def _begin(
    function: str,
    prompts: list[Any],
    model: Any,
    contexts: list[Any] | None,
    read: Callable[[list[Any]], Any],
    *,
    images: list[Any] | None,
) -> Subcall:
    if model is not None and (not isinstance(model, str) or len(model) > 200):
        raise TypeError("model must be the name of a model; to give a text to a child RLM use context=...")
    pictures = _Pictures()
    if images is not None:
        prompts = [_with_images(prompt, one) for prompt, one in zip(prompts, images, strict=True)]
    if function.startswith("rlm_"):
        prompts, contexts = _images_to_contexts(prompts, contexts)
    number = next(_call_numbers)
    call = host_submit(
        function,
        number=number,
        prompts=[pictures.prompt(prompt) for prompt in prompts],
        model=model,
        contexts=None if contexts is None else [pictures.context(context) for context in contexts],
        **pictures.arguments(),
    )
    if _in_order:
        with contextlib.suppress(HostCallError):  # `result` raises it
            call.result()
    return Subcall(number, call, read)


def _with_images(prompt: Any, images: Any) -> Any:
    """Returns a prompt as a list, with the pictures that belong to it at its end."""
    images = [] if images is None else [images] if isinstance(images, Image) else list(images)
    if not all(isinstance(image, Image) for image in images):
        raise TypeError("images must be Image objects, as in images=[image] or, for a batch, images=[[image], [image]]")
    if not images:
        return prompt
    return [*(prompt if _has_images(prompt) else [prompt]), *images]


def _has_images(prompt: object) -> bool:
    return isinstance(prompt, list | tuple) and any(isinstance(part, Image) for part in prompt)


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


def _read_single(results: list[Any]) -> str:
    (result,) = _read_batch(results)
    if isinstance(result, SubcallError):
        raise result
    return str(result)


def _read_batch(results: list[Any]) -> list[Any]:
    return [
        result["text"]
        if "text" in result
        else SubcallError(result["message"], result["kind"], result["partial_answer"])
        for result in results
    ]


def _render(value: object) -> str:
    """Returns text as it is, bytes as UTF-8, None as nothing, containers as JSON, anything else as str() does."""
    if isinstance(value, str):
        return str(value)
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Subcall):
        raise TypeError("this is a sub-call that has begun, not its reply; await it, or call its result()")
    if isinstance(value, dict | list | tuple):
        try:
            return json.dumps(value, ensure_ascii=False, default=_plain)
        except (TypeError, ValueError):  # keys that are no strings, or a cycle
            return repr(value)
    return str(value)


def _as_answer(value: object) -> dict[str, str]:
    if not _typed or isinstance(value, str):
        return {"text": _render(value), "form": "text"}
    return {"text": json.dumps(value, ensure_ascii=False, default=_plain), "form": "json"}


def _plain(value: Any) -> object:
    """Returns something that JSON can express for a value that it cannot."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def _user_variables() -> dict[str, Any]:
    return {
        name: value
        for name, value in variables.items()
        if not str(name).startswith("_") and name not in __all__ and not isinstance(value, types.ModuleType)
    }


def _value_names() -> list[str]:
    """Returns the names of the user's variables that hold what may be an answer."""
    return [
        name
        for name, value in list(_user_variables().items())
        if name not in _given and not isinstance(value, _NO_VALUES)
    ][:_MAX_LISTED_VARIABLES]


def _restore_names() -> list[str]:
    """Puts back the inputs that code has rebound, and returns the names of the REPL that it had.

    What was in the place of an input gets the name NAME_new. Functions are put back by the sandbox.
    """
    provided = globals()
    restored = [name for name in __all__ if name != "answer" and variables.get(name, _MISSING) is not provided[name]]
    for name, value in _given.items():
        if variables.get(name, _MISSING) is not value:
            if name in variables:
                variables[f"{name}_new"] = variables[name]
            variables[name] = value
            restored.append(name)
    return restored


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


def _begin_completion(
    context_names: list[str], images: dict[str, tuple[str, int, int]], *, typed: bool = False
) -> None:
    """Makes a REPL that has been kept ready for the next completion. The engine calls this, before it runs code."""
    answer.update(content="", ready=False)
    _set_images(images, [])
    _typed[:] = ["json"] if typed else []
    _given.update((name, variables[name]) for name in context_names)


def _configure(context_names: list[str], *, typed: bool = False, in_order: bool = False) -> None:
    if in_order:
        _in_order.append(True)
    if typed:
        _typed.append("json")
    if context_names != ["context"]:
        parts = {name: variables[name] for name in context_names}
        variables["context"] = parts if len(parts) > 1 else next(iter(parts.values()))
    _given.update((name, variables[name]) for name in ("context", *context_names))
