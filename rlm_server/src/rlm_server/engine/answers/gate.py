"""Decides whether an answer that a model declared final is taken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.answers.answer import Answer, AnswerForm, is_no_answer
from rlm_server.engine.budgets.accounts import LimitReachedError
from rlm_server.engine.prompts import fill

if TYPE_CHECKING:
    from rlm_server.engine.answers.answer_schema import AnswerSchema
    from rlm_server.engine.run import Node, NodeTask, Run

_MAX_REFUSALS = 5
"""Answers of one node that are refused before it gives up."""


@dataclass(frozen=True)
class Verdict:
    """What is made of an answer.

    Args:
        refusal: why it is not taken, for the model; empty if it is.
        is_doubtful: it reads like a plan or a placeholder.
        answer_json: the value that matches the schema, as JSON, if there is one to match.
    """

    refusal: str = ""
    is_doubtful: bool = False
    answer_json: str = ""


class AnswerGate:
    """What the answers of one node must pass. Each that is refused is kept, as the best answer so far.

    Args:
        run: the completion's.
        node: the place in the tree.
        task: what is asked.
    """

    def __init__(self, run: Run, node: Node, task: NodeTask) -> None:
        self._run = run
        self._node = node
        self._schema = run.spec.answer_schema_of(node.node_id)
        earlier = [] if task.past is None else [part.name for part in task.past.parts]
        names = "|".join(sorted({"context", *map(re.escape, [*(part.value.name for part in task.contexts), *earlier])}))
        self._mention = re.compile(rf"\b(?:{names})\b")
        # What goes on with a conversation, with nothing new to look at, may rest on what was seen before.
        self._has_looked = task.past is not None and not task.contexts
        self._has_run = False
        self._was_asked_to_confirm = False
        self._refusals = 0

    def see_code(self, code: str) -> None:
        """Takes note of code that is about to run: what names the context looks at it."""
        self._has_looked = self._has_looked or self._mention.search(code) is not None

    def see_outcome(self) -> None:
        """Takes note that code has come to something: sub-models have replied, or the model is shown its output."""
        self._has_run = True

    async def judge(self, answer: Answer, *, is_last_turn: bool) -> Verdict:
        """Says whether an answer is taken.

        Raises:
            LimitReachedError: too many were refused.
        """
        verdict = await self._judge(answer, is_last_turn=is_last_turn)
        if verdict.refusal:
            self._refusals += 1
            if self._refusals == _MAX_REFUSALS:
                message = f"{_MAX_REFUSALS} answers were not taken; the one that is given is the last of them"
                raise LimitReachedError(event_pb2.FINISH_REASON_NO_PROGRESS, message)
        return verdict

    def matches(self, draft: str) -> bool:
        """Whether there is a schema, and what there is of an answer matches it."""
        return bool(draft and self.json_of(Answer(draft, AnswerForm.WRITTEN)))

    def json_of(self, answer: Answer) -> str:
        """Returns an answer as JSON if it matches the schema; empty if it does not, or there is none."""
        if self._schema is None:
            return ""
        checked = self._schema.check(answer)
        return "" if checked.problem else checked.json_text

    async def _judge(self, answer: Answer, *, is_last_turn: bool) -> Verdict:
        prompts, spec = self._run.prompts, self._run.spec
        if not self._has_looked:
            # Code that does not name the context may have looked at it nevertheless, unless a refusal hangs on it.
            if spec.look_required or not self._has_run:
                message = "the answer was given before any code had looked at the context"
                await self._warn(event_pb2.WARNING_CODE_ANSWER_WITHOUT_CODE, message)
            if spec.look_required:
                return Verdict(refusal=fill(prompts.look_first))
        if self._schema is not None:
            return await self._judge_value(answer, self._schema)
        kind = is_no_answer(answer.text)
        if kind:
            await self._warn(event_pb2.WARNING_CODE_ANSWER_DOUBTFUL, f"the answer reads like {kind}")
            if not self._was_asked_to_confirm and not is_last_turn:
                self._was_asked_to_confirm = True
                return Verdict(refusal=fill(prompts.answer_doubtful, kind=kind), is_doubtful=True)
        return Verdict(is_doubtful=bool(kind))

    async def _judge_value(self, answer: Answer, schema: AnswerSchema) -> Verdict:
        checked = schema.check(answer)
        if not checked.problem:
            return Verdict(answer_json=checked.json_text)
        await self._warn(
            event_pb2.WARNING_CODE_ANSWER_MISMATCH, f"the answer does not match the schema:\n{checked.problem}"
        )
        tries_left = _MAX_REFUSALS - self._refusals - 1
        return Verdict(refusal=fill(self._run.prompts.answer_mismatch, problems=checked.problem, tries_left=tries_left))

    async def _warn(self, code: event_pb2.WarningCode.ValueType, message: str) -> None:
        await self._run.events.warn(self._node.node_id, code, message)
