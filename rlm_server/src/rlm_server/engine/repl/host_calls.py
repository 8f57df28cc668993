"""The host calls of one node's session: sub-calls, tools, and what the REPL asks of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_server.engine.subcalls.request import SUBCALL_FUNCTIONS, unknown_function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.run import Node
    from rlm_server.engine.subcalls.subcalls import Subcalls
    from rlm_server.engine.tree import Tree

HOST_FUNCTIONS = (*SUBCALL_FUNCTIONS, "cancel_subcall", "budget")
"""The host functions that every node has."""


class HostCalls:
    """Answers a session's host calls.

    Several may be answered at once. Each is a task that begins in the order of the calls; in which order they are
    answered depends on what models take, and code can see it. So whoever is to repeat a block gives the answers in the
    order in which `answer` returned them.

    Args:
        tree: the completion's.
        node: whose code makes the calls.
        subcalls: answers those that ask models.
    """

    def __init__(self, tree: Tree, node: Node, subcalls: Subcalls) -> None:
        self._tree = tree
        self._node = node
        self._subcalls = subcalls
        self._tools = {tool.name: tool for tool in tree.run.tools_of(node) if tool.python_source is None}

    @property
    def functions(self) -> Sequence[str]:
        """The names of the host functions."""
        return (*HOST_FUNCTIONS, *self._tools)

    async def answer(self, call: HostCall) -> object:
        """Returns the answer to a call, which JSON can express.

        Raises:
            HostCallError: the call is wrong or refused; code in the REPL sees it as an exception.
        """
        if call.function in SUBCALL_FUNCTIONS:
            return await self._subcalls.answer(call)
        if call.function == "cancel_subcall":
            self._subcalls.cancel(call)
            return None
        if call.function == "budget":
            return self._budget()
        tool = self._tools.get(call.function)
        if tool is not None and not call.args:
            return await self._tree.run.client_tools.call(
                self._node.node_id, self._node.next_tool_call_id(), tool, call.kwargs
            )
        raise unknown_function(call.function)

    def _budget(self) -> dict[str, float | int | None]:
        """Returns what the node has left, with all below it."""
        limits = self._tree.run.spec.limits
        left = self._tree.shares.left(self._node.node_id)
        return {
            # With a seed time stands still, as it would differ from run to run.
            "seconds": round(left.seconds, 3) if self._tree.run.spec.seed is None else limits.wall_time_seconds,
            "iterations": limits.max_iterations - self._tree.iterations_of(self._node.node_id),
            "subcalls": left.subcalls,
            "input_tokens": left.input_tokens,
            "output_tokens": left.output_tokens,
            "dollars": None if left.cost_microdollars is None else left.cost_microdollars / 1e6,
            "depth": limits.max_depth - self._node.depth,
            "concurrency": limits.max_concurrent_subcalls,
        }
