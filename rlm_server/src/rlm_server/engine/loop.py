"""The loop of one node: ask the model, run the code of its reply, show it the output, until there is an answer."""

from __future__ import annotations

import collections
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.answers.answer import Answer, AnswerForm
from rlm_server.engine.answers.gate import AnswerGate
from rlm_server.engine.answers.last_answer import LIMITS_WITH_A_LAST_ANSWER, read_last_answer, said_beside_code
from rlm_server.engine.budgets.accounts import LimitReachedError
from rlm_server.engine.messages import conversation
from rlm_server.engine.messages.compaction import Compactor
from rlm_server.engine.messages.transcript import Transcript
from rlm_server.engine.patience import Patience
from rlm_server.engine.ports.models import Message, ModelError
from rlm_server.engine.ports.sessions import SandboxError, VariablesState
from rlm_server.engine.progress import RepetitionError
from rlm_server.engine.prompts import fill
from rlm_server.engine.repl.cells import CellRunner
from rlm_server.engine.replies.final_code import final_code
from rlm_server.engine.replies.invented_output import without_invented_output
from rlm_server.engine.replies.parsing import FinalKind, Reply, TextFinal, parse_reply
from rlm_server.engine.run import NodeResult
from rlm_server.engine.text import clean
from rlm_server.engine.turn_calls import TurnCalls

if TYPE_CHECKING:
    from rlm_server.engine.model_calls import ModelReply
    from rlm_server.engine.ports.sessions import Session
    from rlm_server.engine.repl.cells import WrittenFiles
    from rlm_server.engine.run import Node, NodeTask
    from rlm_server.engine.subcalls.subcalls import Subcalls
    from rlm_server.engine.tree import Tree

_KEPT_REPLIES = 10
"""In how many replies words are looked for, where there is nothing better for an answer."""


@dataclass
class _Turn:
    """What came of one reply: an answer, or texts that the model is shown, with what its code wrote and raised."""

    answer: Answer | None = None
    answer_json: str = ""
    notes: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


class NodeLoop:
    """Runs a node to its end.

    Args:
        tree: the completion's.
        node: the place in the tree.
        task: what is asked.
        session: the node's sandbox.
        subcalls: answers the session's host calls.
    """

    def __init__(self, tree: Tree, node: Node, task: NodeTask, session: Session, subcalls: Subcalls) -> None:
        self._tree = tree
        self._run = tree.run
        self._node = node
        self._task = task
        self._subcalls = subcalls
        self._cells = cells = CellRunner(tree, node, session)
        history_index = task.past.completion_count if task.past is not None else 0
        compactor = Compactor(
            tree,
            node,
            task.model,
            session,
            history_index=history_index,
            own_names=lambda: cells.value_names,
        )
        self._calls = TurnCalls(tree, node, task.model, compactor)
        self._gate = AnswerGate(tree.run, node, task)
        self._patience = Patience(tree.run, node.node_id)
        earlier = [] if task.past is None else [part.name for part in task.past.parts]
        self._provided_values = frozenset({"answer", "context", *earlier, *(part.value.name for part in task.contexts)})
        self.transcript = Transcript(conversation.opening(tree, node, task))
        """What the node and its model have said."""
        self._last_replies: collections.deque[str] = collections.deque(maxlen=_KEPT_REPLIES)
        self.iterations = 0
        """The turns that were begun."""

    @property
    def best_answer(self) -> str:
        """What there is of an answer so far."""
        return self._cells.draft or next(filter(None, map(said_beside_code, reversed(self._last_replies))), "")

    @property
    def written_files(self) -> WrittenFiles:
        """What its code has written."""
        return self._cells.written_files

    async def run(self) -> NodeResult:
        """Runs the loop until there is an answer or it cannot go on."""
        try:
            return await self._take_turns()
        except LimitReachedError as error:
            return await self._at_limit(error)
        except ModelError as error:
            await self._tree.caller.emit_usage(self._node.node_id)
            return self._partial(event_pb2.FINISH_REASON_MODEL_ERROR, error.message)
        except SandboxError as error:
            return self._partial(event_pb2.FINISH_REASON_SANDBOX_ERROR, str(error))

    async def interrupt(self, cause: str, variables: VariablesState = VariablesState.LOST) -> None:
        """Tells the end of the block that was running when the loop's task was cancelled.

        Args:
            cause: why it was.
            variables: what became of the session's variables.
        """
        await self._cells.interrupt(cause, variables)

    async def _take_turns(self) -> NodeResult:
        limits = self._run.spec.limits
        while True:
            self.iterations += 1
            reply = await self._ask()
            turn = _Turn()
            reply = await self._without_invented_output(reply, turn)
            self.transcript.append(Message("assistant", reply.text))
            try:
                await self._take_turn(reply, turn)
            except LimitReachedError:
                self._show_notes(turn)
                raise
            if turn.answer is not None:
                return NodeResult(
                    event_pb2.FINISH_REASON_ANSWERED,
                    turn.answer.text,
                    iterations=self.iterations,
                    answer_json=turn.answer_json,
                )
            if self.iterations == limits.max_iterations:
                self._show_notes(turn)
                raise LimitReachedError(
                    event_pb2.FINISH_REASON_MAX_ITERATIONS, f"max_iterations of {limits.max_iterations} is reached"
                )
            turn.notes.append(conversation.status_line(self._tree, self._node, self.iterations + 1))
            self._show_notes(turn)

    def _show_notes(self, turn: _Turn) -> None:
        if turn.notes:
            self.transcript.append(Message("user", "\n\n".join(turn.notes)))

    async def _ask(self) -> ModelReply:
        self._run.budget.record_iteration()
        reply = await self._calls.ask(self.iterations, self.transcript)
        self._last_replies.append(reply.text)
        return reply

    async def _take_turn(self, model_reply: ModelReply, turn: _Turn) -> None:
        reply = parse_reply(model_reply.text)
        if model_reply.cut:
            await self._tree.caller.tell_of_cut(self._node.node_id, model_reply)
            turn.notes.append(self._note_on_cut(model_reply, reply))
        if reply.blocks:
            await self._take_code(reply, turn)
        elif reply.final is not None:
            await self._take_final(reply.final, turn)
        else:
            turn.notes.append(await self._patience.note_idle_reply(empty=reply.is_empty))

    async def _without_invented_output(self, reply: ModelReply, turn: _Turn) -> ModelReply:
        text = without_invented_output(reply.text)
        if len(text) == len(reply.text):
            return reply
        message = f"the reply went on after its code with output that was made up; {len(reply.text) - len(text):,}"
        await self._warn(event_pb2.WARNING_CODE_OUTPUT_INVENTED, f"{message} characters of it are left out")
        turn.notes.append(fill(self._run.prompts.output_invented))
        return dataclasses.replace(reply, text=text)

    def _note_on_cut(self, model_reply: ModelReply, reply: Reply) -> str:
        prompts = self._run.prompts
        if model_reply.is_filtered:
            return fill(prompts.reply_filtered)
        return fill(prompts.thinking_cut if reply.is_empty else prompts.reply_truncated)

    async def _take_code(self, reply: Reply, turn: _Turn) -> None:
        self._patience.note_reply()
        await self._run_blocks(reply.blocks, turn)
        asked = self._subcalls.take_asked()
        self._gate.see_outcome()
        if turn.answer is None:
            notes = await self._patience.note_turn(reply.blocks, turn.notes, turn.outputs, asked)
            turn.notes += notes
        if turn.answer is None and reply.final is not None:
            function = "FINAL_VAR" if reply.final.kind is FinalKind.VARIABLE else "FINAL"
            await self._warn(
                event_pb2.WARNING_CODE_FINAL_BESIDE_CODE, f"the reply had code and also {function} in its text"
            )
            turn.notes.append(fill(self._run.prompts.final_beside_code, function=function))

    async def _take_final(self, final: TextFinal, turn: _Turn) -> None:
        self._patience.note_reply()
        variables = self._cells.value_names | ({"answer"} if self._cells.holds_answer else set())
        code = final_code(final, variables, self._provided_values)
        if code:
            await self._run_blocks((code,), turn)
        else:
            form = AnswerForm.TEXT if final.is_quoted else AnswerForm.WRITTEN
            await self._take_answer(Answer(clean(final.argument), form), turn)

    async def _take_answer(self, answer: Answer, turn: _Turn) -> None:
        is_last_turn = self.iterations == self._run.spec.limits.max_iterations
        try:
            verdict = await self._gate.judge(answer, is_last_turn=is_last_turn)
        except LimitReachedError:
            if not self._gate.matches(self._cells.draft):
                self._cells.draft = answer.text
            raise
        is_worse = verdict.is_doubtful or (verdict.refusal and self._gate.matches(self._cells.draft))
        if not (is_worse and self._cells.draft):
            self._cells.draft = answer.text
        if verdict.refusal:
            turn.notes.append(verdict.refusal)
        else:
            turn.answer, turn.answer_json = answer, verdict.answer_json

    async def _run_blocks(self, blocks: tuple[str, ...], turn: _Turn) -> None:
        refused_before = self._subcalls.refused_count
        chars_left = self._run.spec.limits.max_output_chars
        for index, code in enumerate(blocks):
            # What a block does not need of its share is there for those after it.
            share = chars_left // (len(blocks) - index)
            self._gate.see_code(code)
            cell = await self._cells.run(self.iterations, index + 1, code, share)
            await self._subcalls.end_block()
            chars_left -= cell.shown_chars
            if self._subcalls.has_asked:
                self._gate.see_outcome()
            turn.notes.append(conversation.block_report(self._run.prompts, cell, index + 1, len(blocks)))
            turn.outputs += [cell.output, cell.error]
            if cell.answer is not None:
                await self._take_answer(cell.answer, turn)
                return
            if cell.failed:
                self._patience.note_failure(refused=self._subcalls.refused_count > refused_before)
                return
        self._patience.note_success()

    async def _at_limit(self, limit: LimitReachedError) -> NodeResult:
        """Ends the node with the best answer there is: what the model says to that, if it can be asked."""
        result = self._partial(limit.reason, limit.message)
        has_more_to_say = limit.reason in LIMITS_WITH_A_LAST_ANSWER or isinstance(limit, RepetitionError)
        if not has_more_to_say or not self._run.spec.answer_at_limit:
            return result
        self.transcript.add_to_last(fill(self._run.prompts.last_answer, limit=limit.message))
        try:
            reply = await self._calls.ask(self.iterations + 1, self.transcript, is_last_answer=True)
        except (LimitReachedError, ModelError, SandboxError) as error:
            await self._tree.caller.emit_usage(self._node.node_id)
            await self._warn(event_pb2.WARNING_CODE_NO_LAST_ANSWER, f"there is no last answer: {error}")
            return result
        self.transcript.append(Message("assistant", reply.text))
        await self._tree.caller.tell_of_cut(self._node.node_id, reply, "the last answer")
        answer = read_last_answer(reply.text)
        if answer is None:
            await self._warn(
                event_pb2.WARNING_CODE_NO_LAST_ANSWER, "there is no last answer: the reply has code or nothing in it"
            )
            return result
        answer_json = self._gate.json_of(answer)
        if not answer_json and self._gate.matches(result.answer):
            message = "the last answer does not match the schema, so the one before it stands, which does"
            await self._warn(event_pb2.WARNING_CODE_NO_LAST_ANSWER, message)
            return result
        return dataclasses.replace(result, answer=answer.text, answer_json=answer_json)

    def _partial(self, reason: event_pb2.FinishReason.ValueType, error: str) -> NodeResult:
        return NodeResult(reason, self.best_answer, partial=True, error=error, iterations=self.iterations)

    async def _warn(self, code: event_pb2.WarningCode.ValueType, message: str) -> None:
        await self._run.events.warn(self._node.node_id, code, message)
