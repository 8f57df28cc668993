"""Sub-calls: what code in a node's REPL asks of models and of child RLMs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.budget import LimitReachedError, SubcallsExhaustedError
from rlm_server.engine.ports import (
    HostCallError,
    InputValue,
    Message,
    ModelError,
    SandboxError,
    ValueFormat,
)
from rlm_server.engine.prompts import fill
from rlm_server.engine.run import ContextPart, Node, NodeResult, NodeTask, UnknownModelError
from rlm_server.engine.text import clean, preview

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rlm_server.engine.ports import HostCall
    from rlm_server.engine.tree import Tree

HOST_FUNCTIONS = ("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched")
"""What `Subcalls` answers. Each takes `prompts`, `model` and `contexts`, and returns a list of results."""

_FINISH_KINDS = {
    event_pb2.FINISH_REASON_MAX_ITERATIONS: "max_iterations",
    event_pb2.FINISH_REASON_MAX_TOKENS: "max_tokens",
    event_pb2.FINISH_REASON_MAX_SUBCALLS: "max_subcalls",
    event_pb2.FINISH_REASON_MAX_ERRORS: "max_errors",
    event_pb2.FINISH_REASON_MODEL_ERROR: "model_error",
    event_pb2.FINISH_REASON_SANDBOX_ERROR: "sandbox_error",
    event_pb2.FINISH_REASON_NO_PROGRESS: "no_progress",
}


@dataclass(frozen=True)
class _Item:
    """One prompt of a call. `failure` tells why it is not to be asked at all."""

    prompt: str
    context: tuple[ValueFormat, str] | None
    failure: tuple[str, str] | None = None


@dataclass(frozen=True)
class _Request:
    """A host call, checked."""

    function: str
    items: list[_Item]
    model: str
    batched: bool
    recursive: bool


class Subcalls:
    """Answers the host calls of one node's session.

    Args:
        tree: the completion's.
        node: whose code makes the calls.
        run_child: runs a child RLM to its end.
    """

    def __init__(self, tree: Tree, node: Node, run_child: Callable[[Node, NodeTask], Awaitable[NodeResult]]) -> None:
        self._tree = tree
        self._run = tree.run
        self._node = node
        self._run_child = run_child
        self.refused_count = 0
        """Calls that were refused as a limit is reached."""

    async def answer(self, call: HostCall) -> object:
        """Returns a list with a dict for each prompt: `text`, or `kind`, `message` and `partial_answer` of a failure.

        Raises:
            HostCallError: the call as a whole is wrong or refused.
        """
        request = self._check(call)
        askable = [item for item in request.items if item.failure is None]
        try:
            self._run.budget.reserve_subcalls(len(askable))
        except SubcallsExhaustedError as error:
            await self._warn_refused(str(error))
            raise HostCallError("refused", str(error)) from None
        # Ids are given before anything waits, so that they depend on the order of calls alone.
        node_ids = [self._node.next_child_id() if item.failure is None else "" for item in request.items]
        recursive = request.recursive and self._node.depth < self._run.spec.limits.max_depth
        if request.recursive and not recursive and askable:
            await self._run.events.warn(
                self._node.node_id,
                event_pb2.WARNING_CODE_MAX_DEPTH,
                f"{request.function} at depth {self._node.depth} is a plain model call, "
                f"as max_depth is {self._run.spec.limits.max_depth}",
            )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._answer_item(request, index, node_id, recursive=recursive))
                for index, node_id in enumerate(node_ids)
            ]
        return [task.result() for task in tasks]

    def _check(self, call: HostCall) -> _Request:
        """Checks a call. It comes from untrusted code, which may have got round the prelude."""
        prompts = call.kwargs.get("prompts")
        contexts = call.kwargs.get("contexts")
        model = call.kwargs.get("model")
        if call.function not in HOST_FUNCTIONS or call.args:
            raise HostCallError("bad_call", f"there is no such call to {preview(call.function, 100)}")
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise HostCallError("bad_call", "prompts must be a list of texts")
        if model is not None and not isinstance(model, str):
            raise HostCallError("bad_call", "model must be the name of a model")
        if contexts is None:
            contexts = [None] * len(prompts)
        if not isinstance(contexts, list) or len(contexts) != len(prompts):
            raise HostCallError("bad_call", "contexts must be a list with one context for each prompt")
        try:
            resolved = self._run.spec.resolve_model(model) if model else self._run.spec.sub_model
        except UnknownModelError as error:
            raise HostCallError("unknown_model", str(error)) from None
        return _Request(
            function=call.function,
            items=[_check_item(clean(prompt), context) for prompt, context in zip(prompts, contexts, strict=True)],
            model=resolved,
            batched=call.function.endswith("_batched"),
            recursive=call.function.startswith("rlm_"),
        )

    async def _answer_item(self, request: _Request, index: int, node_id: str, *, recursive: bool) -> dict[str, str]:
        item = request.items[index]
        if item.failure is not None:
            return _failure(*item.failure)
        depth = self._node.depth + 1
        started = event_pb2.SubcallStarted(
            parent_node_id=self._node.node_id,
            depth=depth,
            kind=event_pb2.NODE_KIND_RLM if recursive else event_pb2.NODE_KIND_LLM,
            function=request.function,
            model=request.model,
            prompt_preview=preview(item.prompt),
            prompt_chars=len(item.prompt),
            batch_index=index if request.batched else None,
        )
        if recursive:
            async with self._tree.slots.child(depth):
                await self._tree.start_subcall(node_id, started)
                return await self._ask_child(Node(node_id, depth), item, request.model)
        async with self._tree.slots.model_call(depth):
            await self._tree.start_subcall(node_id, started)
            return await self._ask_model(node_id, item, request.model)

    async def _ask_model(self, node_id: str, item: _Item, model: str) -> dict[str, str]:
        prompt = item.prompt if item.context is None else f"{item.prompt}\n\nContext:\n{item.context[1]}"
        try:
            reply = await self._tree.caller.ask(node_id, model, [Message("user", prompt)])
        except LimitReachedError as error:
            await self._warn_refused(error.message)
            await self._tree.finish_subcall(node_id, error.reason, error=error.message)
            return _failure("refused", error.message)
        except ModelError as error:
            await self._tree.caller.emit_usage(node_id)
            await self._tree.finish_subcall(node_id, event_pb2.FINISH_REASON_MODEL_ERROR, error=error.message)
            return _failure(error.kind.value, error.message)
        self._tree.add_usage(node_id, reply.usage)
        await self._tree.caller.emit_usage(node_id)
        if not reply.text.strip():
            message = f"{model} gave an empty reply (stop reason: {reply.stop_reason or 'none'})"
            await self._tree.finish_subcall(node_id, event_pb2.FINISH_REASON_NO_PROGRESS, error=message)
            return _failure("empty_reply", message)
        await self._tree.finish_subcall(node_id, event_pb2.FINISH_REASON_ANSWERED, answer=reply.text)
        return {"text": reply.text}

    async def _ask_child(self, child: Node, item: _Item, model: str) -> dict[str, str]:
        try:
            result = await self._run_child(child, self._child_task(item, model))
        except SandboxError as error:
            result = NodeResult(event_pb2.FINISH_REASON_SANDBOX_ERROR, "", partial=True, error=str(error))
        await self._tree.finish_subcall(child.node_id, result.reason, answer=result.answer, error=result.error)
        if result.reason == event_pb2.FINISH_REASON_ANSWERED:
            return {"text": result.answer}
        return _failure(_FINISH_KINDS.get(result.reason, "failed"), result.error, result.answer)

    def _child_task(self, item: _Item, model: str) -> NodeTask:
        value_format, text = item.context or (ValueFormat.TEXT, item.prompt)
        query = item.prompt if item.context else fill(self._run.prompts.child_query)
        return NodeTask(query, [describe_value("context", value_format, text)], model)

    async def _warn_refused(self, message: str) -> None:
        self.refused_count += 1
        await self._run.events.warn(self._node.node_id, event_pb2.WARNING_CODE_SUBCALL_REFUSED, message)


def describe_value(name: str, value_format: ValueFormat, text: str) -> ContextPart:
    """Returns the part of a context that a text or JSON document at hand makes."""
    return ContextPart(
        value=InputValue(name, value_format, text),
        type_name="str" if value_format is ValueFormat.TEXT else json_type_name(text),
        size_bytes=len(text) if text.isascii() else len(text.encode()),
        size_chars=len(text),
    )


def json_type_name(beginning: str) -> str:
    """Returns the Python type that a valid JSON document becomes, from its beginning."""
    first = beginning.lstrip(" \t\r\n")[:1]
    by_first = {"{": "dict", "[": "list", '"': "str", "t": "bool", "f": "bool", "n": "NoneType"}
    return by_first.get(first, "number")


def _check_item(prompt: str, context: object) -> _Item:
    if not prompt.strip():
        return _Item(prompt, None, ("empty_prompt", "the prompt is empty"))
    if context is None:
        return _Item(prompt, None)
    if not isinstance(context, dict):
        raise HostCallError("bad_call", "a context must have a format and a text")
    value_format, text = context.get("format"), context.get("text")
    if value_format not in ("text", "json") or not isinstance(text, str):
        raise HostCallError("bad_call", "a context must have a format and a text")
    if not text:
        return _Item(prompt, None, ("empty_context", "the context is empty"))
    return _Item(prompt, (ValueFormat(value_format), clean(text)))


def _failure(kind: str, message: str, partial_answer: str = "") -> dict[str, str]:
    return {"kind": kind, "message": message, "partial_answer": partial_answer}
