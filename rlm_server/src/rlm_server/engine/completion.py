"""One completion: the tree of nodes below a query, from `started` to `finished`."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.answers.answer import Answer, AnswerForm
from rlm_server.engine.budgets.budget import Budget
from rlm_server.engine.direct import DirectAnswer
from rlm_server.engine.limits import to_duration
from rlm_server.engine.loop import NodeLoop
from rlm_server.engine.ports.executors import SandboxOpenError, SessionSpec
from rlm_server.engine.ports.sessions import VariablesState
from rlm_server.engine.repl.host_calls import HostCalls
from rlm_server.engine.repl.memory import memory_bytes
from rlm_server.engine.repl.prelude import begin_code, prelude_for
from rlm_server.engine.repl.returned_files import return_files, warn_not_returned
from rlm_server.engine.repl.tools import blame_source
from rlm_server.engine.reproducible import node_seed
from rlm_server.engine.run import ROOT_NODE_ID, Node, NodeResult, NodeTask, Run
from rlm_server.engine.subcalls.subcalls import Subcalls
from rlm_server.engine.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlm_server.engine.conversations.kept_repl import KeptRepl
    from rlm_server.engine.events import EventStream
    from rlm_server.engine.ports.clock import Clock
    from rlm_server.engine.ports.executors import Executor
    from rlm_server.engine.ports.models import ModelClient
    from rlm_server.engine.repl.client_tools import ToolCaller
    from rlm_server.engine.run import CompletionSpec

_log = logging.getLogger(__name__)


class Completion:
    """Runs one completion.

    Args:
        spec: the query.
        events: gets what happens.
        models: calls models.
        executor: makes sandboxes.
        clock: tells the time.
        client_tools: has the client run the tools that it serves.
        elapsed_seconds: how long earlier runs took, if this one repeats them and goes on.
        repl: the conversation's, through which `executor` must have the root's sandbox; None if there is none.
    """

    def __init__(
        self,
        spec: CompletionSpec,
        *,
        events: EventStream,
        models: ModelClient,
        executor: Executor,
        clock: Clock,
        client_tools: ToolCaller,
        elapsed_seconds: float = 0.0,
        repl: KeptRepl | None = None,
    ) -> None:
        run = Run(
            spec=spec,
            budget=Budget(spec.limits, clock, elapsed_seconds),
            events=events,
            models=models,
            executor=executor,
            clock=clock,
            prompts=spec.prompts,
            client_tools=client_tools,
        )
        self._run = run
        self._repl = repl
        self._tree = Tree(run)
        self._root_loop: NodeLoop | None = None
        self._direct = DirectAnswer(self._tree)
        self._are_files_returned = False
        self._stop_the_clock: Callable[[], None] = lambda: None
        self._has_started = False

    async def run(self, cancel_cause: Callable[[], str] = lambda: "") -> event_pb2.CompletionFinished:
        """Runs to the end, and returns what the last event, `finished`, is to tell.

        Args:
            cancel_cause: is asked when the task is cancelled. A text makes that the end of the completion, which is
                told with that cause; the empty text breaks the run off, with everything freed and nothing told.

        Raises:
            SandboxOpenError: there is no sandbox for the root; nothing was told.
        """
        try:
            return await self._finish(await self._run_unless_cancelled(cancel_cause))
        finally:
            # They know the completion. What holds itself would stay, contexts and all, until garbage is collected.
            self._root_loop = None
            self._tree.forget_loops()

    async def _run_unless_cancelled(self, cancel_cause: Callable[[], str]) -> NodeResult:
        try:
            return await self._run_root()
        except asyncio.CancelledError:
            cause = cancel_cause()
            task = asyncio.current_task()
            if not cause or task is None:
                raise
            task.uncancel()
            return await self._interrupted(event_pb2.FINISH_REASON_CANCELLED, cause)

    async def _run_root(self) -> NodeResult:
        spec = self._run.spec
        task = NodeTask(spec.query, spec.contexts, spec.model)
        try:
            async with asyncio.timeout(self._run.budget.remaining_seconds()) as timeout:
                self._stop_the_clock = lambda: timeout.reschedule(None)
                return await self._answer_directly() or await self._run_node(Node(ROOT_NODE_ID, 0), task)
        except SandboxOpenError as error:
            if not self._has_started:
                raise blame_source(error, spec.tools) from error
            return NodeResult(event_pb2.FINISH_REASON_SANDBOX_ERROR, "", partial=True, error=str(error))
        except TimeoutError:
            if not timeout.expired():
                return await self._internal_error()
            return await self._time_is_up()
        except Exception:  # noqa: BLE001 - whatever it is, the caller is owed an end
            return await self._internal_error()

    async def _answer_directly(self) -> NodeResult | None:
        """Answers by one plain call, if the request allows it and the context fits; None means that the loop must."""
        if self._repl is not None or not self._direct.is_possible:
            return None
        await self._start()
        return await self._direct.attempt()

    async def _run_node(self, node: Node, task: NodeTask) -> NodeResult:
        """Runs a node in a sandbox of its own.

        Raises:
            SandboxOpenError: there is no sandbox for it.
        """
        subcalls = Subcalls(self._tree, node, self._run_node)
        host_calls = HostCalls(self._tree, node, subcalls)
        is_typed = self._run.spec.answer_schema_of(node.node_id) is not None
        session_spec = SessionSpec(
            inputs=[one for part in task.contexts for one in part.inputs],
            prelude=prelude_for(
                task.contexts,
                self._run.spec.tools,
                node.depth,
                typed=is_typed,
                in_order=self._run.spec.seed is not None,
            ),
            begin_code=begin_code(task.contexts, typed=is_typed),
            host_functions=host_calls.functions,
            on_host_call=host_calls.answer,
            memory_bytes=memory_bytes(
                self._run.spec.limits.cell.memory_bytes, sum(part.size_bytes for part in task.contexts)
            ),
            seed=None if self._run.spec.seed is None else node_seed(self._run.spec.seed, node.node_id),
            node_id=node.node_id,
            on_wait=self._start_if_not_started,
        )
        is_root = node.node_id == ROOT_NODE_ID
        async with self._run.executor.open(session_spec) as session:
            if is_root:
                task = await self._begin(task, session_spec)
            task = dataclasses.replace(task, packages=await self._run.executor.packages())
            loop = NodeLoop(self._tree, node, task, session, subcalls)
            if is_root:
                self._root_loop = loop
                if self._repl is not None:
                    self._repl.keep(loop.transcript)
            self._tree.add_loop(node.node_id, loop)
            result = await loop.run()
            self._tree.remove_loop(node.node_id)
            if is_root and self._run.spec.wanted_files is not None:
                # The answer is there, and is not to be lost if the time is up while files are read.
                self._stop_the_clock()
                await return_files(self._run.events, self._run.spec.wanted_files, session, loop.written_files)
                self._are_files_returned = True
        return result

    async def _begin(self, task: NodeTask, spec: SessionSpec) -> NodeTask:
        """Tells of the start; returns the root's task with what there was before in its conversation."""
        past = await self._repl.begin(task.query, task.contexts, spec) if self._repl is not None else None
        await self._start_if_not_started()
        if past is None or not past.completion_count:
            return task
        events = self._run.events
        if past.restoration is not None:
            restored = event_pb2.SandboxRestored(
                cause=past.restoration.cause,
                replayed_cell_count=past.restoration.cell_count,
                wall_time=to_duration(past.restoration.wall_time_seconds),
            )
            await events.emit(ROOT_NODE_ID, restored)
            for problem in past.restoration.problems:
                await events.warn(ROOT_NODE_ID, event_pb2.WARNING_CODE_REPLAY_DIVERGED, problem)
        for name, new_name in past.moved.items():
            message = f"{name} is the name of a new part of the context, so the variable of that name is {new_name} now"
            await events.warn(ROOT_NODE_ID, event_pb2.WARNING_CODE_NAME_RESTORED, message)
        if past.variables_lost:
            await events.warn(
                ROOT_NODE_ID,
                event_pb2.WARNING_CODE_VARIABLES_LOST,
                "the conversation's sandbox could not be rebuilt as it was; variables that earlier completions made "
                "are lost",
            )
        return dataclasses.replace(task, past=past)

    async def _start_if_not_started(self) -> None:
        if not self._has_started:
            await self._start()

    async def _start(self) -> None:
        spec = self._run.spec
        self._has_started = True
        await self._run.events.emit(
            ROOT_NODE_ID,
            event_pb2.CompletionStarted(
                query=spec.query,
                model=spec.model,
                sub_model=spec.sub_model,
                contexts=[part.to_proto() for part in spec.contexts],
                limits=spec.limits.to_proto(),
                conversation_id=spec.conversation_id,
            ),
        )

    async def _warn_of_files(self, result: NodeResult) -> None:
        """Tells of files that were asked for and could not be read, as the root's sandbox was gone before."""
        wanted, root = self._run.spec.wanted_files, self._root_loop
        if wanted is None or root is None or self._are_files_returned:
            return
        number = sum(map(wanted.matches, root.written_files.sizes)) + root.written_files.unlisted_count
        await warn_not_returned(self._run.events, number, result.error)

    async def _time_is_up(self) -> NodeResult:
        message = f"wall_time of {self._run.spec.limits.wall_time_seconds:g} s is reached"
        return await self._interrupted(event_pb2.FINISH_REASON_WALL_TIME, message)

    async def _internal_error(self) -> NodeResult:
        _log.exception("completion %s failed", self._run.spec.completion_id)
        message = "the server failed; its log has the cause under the completion's id"
        return await self._interrupted(event_pb2.FINISH_REASON_INTERNAL_ERROR, message)

    async def _interrupted(self, reason: event_pb2.FinishReason.ValueType, message: str) -> NodeResult:
        """Tells the end of what was running, innermost first, and returns the best that there is."""
        root = self._root_loop
        if root is None:
            return NodeResult(reason, self._direct.best_answer, partial=True, error=message)
        await self._tree.end_below(ROOT_NODE_ID, reason, message)
        # A conversation's variables outlive the block that was killed, in its sandbox or another; any other's are gone.
        variables = VariablesState.LOST if self._repl is None else VariablesState.KEPT
        await root.interrupt(message, variables)
        return NodeResult(reason, root.best_answer, partial=True, error=message, iterations=root.iterations)

    async def _finish(self, result: NodeResult) -> event_pb2.CompletionFinished:
        await self._start_if_not_started()
        if self._repl is not None:
            await self._repl.conclude(result.answer, is_final=not result.partial)
        await self._warn_of_files(result)
        schema, answer_json = self._run.spec.answer_schema, result.answer_json
        if schema is not None and result.answer and not answer_json:
            answer_json = schema.check(Answer(result.answer, AnswerForm.WRITTEN)).json_text
        return event_pb2.CompletionFinished(
            finish_reason=result.reason,
            answer=result.answer,
            answer_json=answer_json,
            partial=result.partial,
            error=result.error,
            usage=self._run.budget.usage(),
            iterations=result.iterations,
            wall_time=to_duration(self._run.budget.elapsed_seconds()),
        )
