# ruff: noqa: TC004 - what is imported for the type checker is there, as all of this runs in one module
"""The functions that ask models, and what they return while a call is under way. See `prelude.py`."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import itertools
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rlm_server.engine.repl.in_sandbox.errors import SubcallError, SubcallStormError
    from rlm_server.engine.repl.in_sandbox.images import Image, _images_to_contexts, _Pictures, _with_images
    from rlm_server.engine.repl.in_sandbox.prelude import HostCallError, host_submit

_call_numbers = itertools.count()
_begun: weakref.WeakSet[Subcall] = weakref.WeakSet()
"""The sub-calls of the block that runs."""

_in_order: list[bool] = []
"""Is not empty if code waits for each sub-call, so that what it does meanwhile depends on nothing that takes time."""


_MAX_REFUSALS = 200
"""Sub-calls that are refused in one block, as a limit is reached, before it is ended."""

_refusals: list[int] = [0]
"""How many there were in the block that runs."""


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
            _count_refusals([{"kind": error.type}])
            raise SubcallError(error.message, error.type) from None
        _count_refusals(results)
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

    def __str__(self) -> str:
        raise TypeError("this is a sub-call that has begun, not its reply; await it, or call its result()")

    def __format__(self, spec: str) -> str:
        return str(self)

    def __repr__(self) -> str:
        return "<Subcall: await it, or call its result()>"

    def _running(self) -> Generator[Any, Any, Any]:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps


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


def cancel_subcall(call: Subcall) -> None:
    """Stops a call that has begun; its `cancel()` does the same."""
    call.cancel()


def _single(function: str, prompt: object, model: Any, context: object, images: Any) -> Subcall:
    contexts = None if context is None else [context]
    return _begin(function, [prompt], model, contexts, _read_single, images=None if images is None else [images])


def _batch(function: str, prompts: Any, model: Any, contexts: Any, images: Any) -> Subcall:
    if isinstance(prompts, str | bytes | dict) or not isinstance(prompts, collections.abc.Iterable):
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


def _count_refusals(results: list[Any]) -> None:
    _refusals[0] += sum(result.get("kind") == "refused" for result in results)
    if _refusals[0] > _MAX_REFUSALS:
        raise SubcallStormError(
            f"more than {_MAX_REFUSALS} sub-calls of this block were refused, so it was ended: a limit is reached, and "
            "asking again does not help. Do the rest in Python, or give the best answer that you have"
        )


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
