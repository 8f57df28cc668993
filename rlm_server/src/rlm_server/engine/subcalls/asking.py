"""How one sub-call is made: as a plain call of a model, or by a child RLM."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.budgets.accounts import LimitReachedError
from rlm_server.engine.ports.inputs import ValueFormat
from rlm_server.engine.ports.models import Message, ModelError
from rlm_server.engine.ports.sessions import SandboxError
from rlm_server.engine.prompts import fill
from rlm_server.engine.repl.context_parts import describe_value
from rlm_server.engine.replies.special_tokens import plain_reply
from rlm_server.engine.run import NodeResult, NodeTask
from rlm_server.engine.subcalls.outcome import FINISH_KINDS, SubcallOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rlm_server.engine.run import Node
    from rlm_server.engine.subcalls.request import SubcallItem
    from rlm_server.engine.tree import Tree


class Asking:
    """Asks models and child RLMs what code of one node wants to know.

    Args:
        tree: the completion's.
        run_child: runs a child RLM to its end.
    """

    def __init__(self, tree: Tree, run_child: Callable[[Node, NodeTask], Awaitable[NodeResult]]) -> None:
        self._tree = tree
        self._run_child = run_child

    async def ask_model(self, node_id: str, item: SubcallItem, model: str) -> SubcallOutcome:
        """Makes a plain call of a model; returns the reply, or why there is none.

        Its kind is `refused` where a limit is reached.

        Args:
            node_id: the call's place in the tree.
            item: what is asked.
            model: who is.
        """
        try:
            reply = await self._tree.caller.ask(node_id, model, [Message.from_user(item.plain_content)])
        except LimitReachedError as error:
            return SubcallOutcome(error.reason, kind="refused", message=error.message)
        except ModelError as error:
            await self._tree.caller.emit_usage(node_id)
            return SubcallOutcome(event_pb2.FINISH_REASON_MODEL_ERROR, kind=error.kind.value, message=error.message)
        self._tree.add_usage(node_id, reply.usage)
        await self._tree.caller.emit_usage(node_id)
        await self._tree.caller.tell_of_cut(node_id, reply)
        text = plain_reply(reply.text)
        if not text:
            message = f"{model} gave an empty reply (stop reason: {reply.stop_reason or 'none'})"
            if reply.stop_reason == "length" or reply.text.strip():
                message += "; thinking used up the limit on its length: ask for less at once"
            return SubcallOutcome(event_pb2.FINISH_REASON_NO_PROGRESS, kind="empty_reply", message=message)
        return SubcallOutcome(event_pb2.FINISH_REASON_ANSWERED, text=text)

    async def ask_child(self, child: Node, item: SubcallItem, model: str) -> SubcallOutcome:
        """Runs a child RLM, for as long as its share of the time is; returns its answer, or why there is none.

        Args:
            child: its place in the tree.
            item: what it is asked.
            model: its model.
        """
        seconds = self._tree.shares.left(child.node_id).seconds
        try:
            task = await self._child_task(item, model)
        except ValueError as error:  # the prelude makes good JSON, but code may have got round it
            message = f"the context cannot be used: {error}"
            return SubcallOutcome(event_pb2.FINISH_REASON_NO_PROGRESS, kind="bad_call", message=message)
        try:
            async with asyncio.timeout(seconds) as deadline:
                result = await self._run_child(child, task)
        except SandboxError as error:
            result = NodeResult(event_pb2.FINISH_REASON_SANDBOX_ERROR, "", partial=True, error=str(error))
        except TimeoutError:
            if not deadline.expired():
                raise
            message = f"the share of node {child.node_id} of what was left of wall_time, {seconds:.3g} s, is used up"
            result = await self._tree.interrupt(child.node_id, event_pb2.FINISH_REASON_WALL_TIME, message)
        if result.reason == event_pb2.FINISH_REASON_ANSWERED:
            return SubcallOutcome(result.reason, text=result.answer)
        kind = FINISH_KINDS.get(result.reason, "failed")
        return SubcallOutcome(result.reason, kind=kind, message=result.error, partial_answer=result.answer)

    async def _child_task(self, item: SubcallItem, model: str) -> NodeTask:
        value_format, text = item.context or (ValueFormat.TEXT, item.prompt)
        query = item.prompt if item.context else fill(self._tree.run.prompts.child_query)
        context = await describe_value("context", value_format, text, inner_images=item.context_images)
        return NodeTask(query, [context], model)
