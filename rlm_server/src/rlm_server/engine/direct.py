"""A direct answer: a context that fits the model comfortably is put into one plain call, without a REPL."""

from __future__ import annotations

import asyncio
import math
import re
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.answers.answer import Answer, AnswerForm
from rlm_server.engine.budgets.accounts import LimitReachedError
from rlm_server.engine.budgets.token_estimate import TOKENS_PER_IMAGE
from rlm_server.engine.images import Content, Image, check_image
from rlm_server.engine.ports.inputs import StoredBytes, ValueFormat
from rlm_server.engine.ports.models import Message, ModelError, ModelErrorKind
from rlm_server.engine.prompts import fill
from rlm_server.engine.replies.fences import without_thinking
from rlm_server.engine.run import ROOT_NODE_ID, NodeResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.model_calls import ModelReply
    from rlm_server.engine.ports.models import TextPart
    from rlm_server.engine.repl.context_parts import ContextPart
    from rlm_server.engine.tree import Tree

CANNOT_ANSWER = "CANNOT_ANSWER_DIRECTLY"
"""What the model is to say instead of an answer that it cannot give."""

_BYTES_PER_TOKEN = 3

_COMFORTABLE_PART = 0.5
"""How much of the window the context may take."""

_MAX_MENDS = 1
"""How often an answer that does not match the schema may be mended before the loop has to answer."""

_REFUSAL = re.compile(rf"[\W_]*{CANNOT_ANSWER}\b.{{0,500}}", re.DOTALL)


class DirectAnswer:
    """Tries to answer a completion's query by one plain call.

    Args:
        tree: the completion's.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._run = tree.run
        self._spec = tree.run.spec
        self.context_tokens = estimate_context_tokens(self._spec.contexts)
        """The estimated size of the context."""
        self.best_answer = ""
        """What there is of an answer so far: one that does not match the schema, or was cut."""

    @property
    def is_possible(self) -> bool:
        """Whether the request allows it, and the context fits the model comfortably."""
        limit = self._spec.max_direct_answer_tokens
        if limit is None or self._spec.tools or self._spec.wanted_files is not None:
            return False
        if any(part.image for part in self._spec.contexts) and not self._run.models.info(self._spec.model).takes_images:
            return False
        window = self._spec.compaction.window_tokens(self._spec.model)
        return self.context_tokens <= min(limit, int(window * _COMFORTABLE_PART))

    async def attempt(self) -> NodeResult | None:
        """Makes the call; returns how the completion ends, or None if the loop has to answer."""
        try:
            text, answer_json, problem = await self._answer()
        except LimitReachedError as error:
            return NodeResult(error.reason, self.best_answer, partial=True, error=error.message)
        except ModelError as error:
            await self._tree.caller.emit_usage(ROOT_NODE_ID)
            if error.kind is not ModelErrorKind.CONTEXT_TOO_LONG:
                reason = event_pb2.FINISH_REASON_MODEL_ERROR
                return NodeResult(reason, self.best_answer, partial=True, error=error.message)
            text, answer_json, problem = "", "", "the context is too long for one call"
        if problem:
            code = event_pb2.WARNING_CODE_NOT_ANSWERED_DIRECTLY
            await self._run.events.warn(ROOT_NODE_ID, code, f"{problem}, so code is to answer")
            return None
        await self._run.events.emit(ROOT_NODE_ID, event_pb2.AnsweredDirectly(context_tokens=self.context_tokens))
        return NodeResult(event_pb2.FINISH_REASON_ANSWERED, text, answer_json=answer_json)

    async def _answer(self) -> tuple[str, str, str]:
        """Returns the answer, the same as JSON where a schema is asked for, and why it is none, if it is none."""
        schema = self._spec.answer_schema
        messages = [Message.from_user(await asyncio.to_thread(self._content))]
        for mends_left in range(_MAX_MENDS, -1, -1):
            reply = await self._ask(messages)
            text = without_thinking(reply.text).strip()
            problem = _problem_with(text, reply)
            if not _REFUSAL.fullmatch(text):
                self.best_answer = text
            if problem or schema is None:
                return text, "", problem
            checked = schema.check(Answer(text, AnswerForm.WRITTEN))
            if not checked.problem:
                return text, checked.json_text, ""
            message = f"the answer does not match the schema:\n{checked.problem}"
            await self._run.events.warn(ROOT_NODE_ID, event_pb2.WARNING_CODE_ANSWER_MISMATCH, message)
            if mends_left:
                prompt = self._run.prompts.direct_mismatch
                told = fill(prompt, problems=checked.problem, cannot_answer=CANNOT_ANSWER)
                messages += [Message("assistant", reply.text), Message("user", told)]
        return "", "", "the answers do not match the schema"

    async def _ask(self, messages: Sequence[Message]) -> ModelReply:
        run, model = self._run, self._spec.model

        async def pass_on(part: TextPart) -> None:
            await run.events.emit(ROOT_NODE_ID, event_pb2.ModelTextDelta(text=part.text, reasoning=part.reasoning))

        async with self._tree.slots.model_call(0, model):
            reply = await self._tree.caller.ask(ROOT_NODE_ID, model, messages, pass_on)
        await self._tree.caller.tell_of_reply(ROOT_NODE_ID, reply)
        return reply

    def _content(self) -> Content:
        """Returns the message: instructions, question, and the whole context."""
        texts: list[str] = []
        images: list[str | Image] = []
        for part in self._spec.contexts:
            value = _read(part)
            name, description = part.value.name, f": {part.description}" if part.description else ""
            heading = f"=== {name}: {part.outline.type_name}, {part.outline.size}{description}"
            if isinstance(value, Image):
                texts.append(f"{heading}, shown below\n=== end of {name}")
                images += [f"{name}:", value]
            else:
                texts.append(f"{heading}\n{value}\n=== end of {name}")
        prompts, schema = self._run.prompts, self._spec.answer_schema
        text = fill(
            prompts.direct,
            query=self._spec.query,
            contexts="\n\n".join(texts),
            cannot_answer=CANNOT_ANSWER,
            answer_format=fill(prompts.direct_answer_format, schema=schema.text) if schema is not None else "",
        )
        return (text, *images) if images else text


def estimate_context_tokens(contexts: Sequence[ContextPart]) -> int:
    """Returns a number of tokens that the parts of a context seldom exceed: prose has one for some four bytes."""
    return sum(
        TOKENS_PER_IMAGE if part.image is not None else math.ceil(part.size_bytes / _BYTES_PER_TOKEN)
        for part in contexts
    )


def _problem_with(text: str, reply: ModelReply) -> str:
    """Returns why a reply is no answer, or an empty text."""
    if reply.cut:
        return f"the reply was cut by {reply.cut}"
    if not text:
        return "the reply was empty"
    return "the model says that it cannot answer by reading alone" if _REFUSAL.fullmatch(text) else ""


def _read(part: ContextPart) -> str | Image:
    value = part.value.value
    data = value.path.read_bytes() if isinstance(value, StoredBytes) else value
    if part.value.format is ValueFormat.BYTES:
        return check_image(data if isinstance(data, bytes) else data.encode(), "", len(data))
    return data.decode() if isinstance(data, bytes) else data
