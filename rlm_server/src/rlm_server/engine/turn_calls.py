"""The call to the model that each turn of a node begins with, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

if TYPE_CHECKING:
    from rlm_server.engine.messages.compaction import Compactor
    from rlm_server.engine.messages.transcript import Transcript
    from rlm_server.engine.model_calls import ModelReply
    from rlm_server.engine.ports.models import TextPart
    from rlm_server.engine.run import Node
    from rlm_server.engine.tree import Tree


class TurnCalls:
    """Asks a node's model, from the event that a turn begins to the one with its whole reply.

    Args:
        tree: the completion's.
        node: the place in the tree.
        model: the node's.
        compactor: keeps what is sent within the model's window.
    """

    def __init__(self, tree: Tree, node: Node, model: str, compactor: Compactor) -> None:
        self._tree = tree
        self._run = tree.run
        self._node = node
        self._model = model
        self._compactor = compactor

    async def ask(self, iteration: int, transcript: Transcript, *, is_last_answer: bool = False) -> ModelReply:
        """Returns the model's reply.

        Args:
            iteration: the turn.
            transcript: what the node and its model have said.
            is_last_answer: the model is asked for its best answer, as a limit is reached.

        Raises:
            LimitReachedError: a limit of tokens is reached, or the messages do not fit the window.
            ModelError: a call failed for good.
            SandboxError: the sandbox broke.
        """
        run, node_id = self._run, self._node.node_id
        await run.events.emit(
            node_id,
            event_pb2.IterationStarted(
                iteration=iteration,
                max_iterations=run.spec.limits.max_iterations,
                model=self._model,
                last_answer=is_last_answer,
            ),
        )

        async def pass_on(part: TextPart) -> None:
            await run.events.emit(
                node_id, event_pb2.ModelTextDelta(iteration=iteration, text=part.text, reasoning=part.reasoning)
            )

        async with self._tree.slots.model_call(self._node.depth, self._model):
            reply = await self._compactor.ask(iteration, transcript, pass_on)
        self._tree.add_usage(node_id, reply.usage)
        await self._tree.caller.tell_of_reply(node_id, reply, iteration)
        return reply
