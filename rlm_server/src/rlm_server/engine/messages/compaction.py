"""Compaction: when a node's messages near the model's window, the model sums them up and goes on with the summary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.budgets.accounts import LimitReachedError
from rlm_server.engine.budgets.tokens import TokenGauge, size_bytes
from rlm_server.engine.messages.transcript import HISTORY_ALIAS, history_input, history_name
from rlm_server.engine.ports.models import Message, ModelError, ModelErrorKind
from rlm_server.engine.prompts import fill
from rlm_server.engine.replies.special_tokens import plain_reply
from rlm_server.engine.text import count
from rlm_server.engine.truncation import cut_middle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rlm_server.engine.messages.transcript import Transcript
    from rlm_server.engine.model_calls import ModelReply
    from rlm_server.engine.ports.models import TextPart
    from rlm_server.engine.ports.sessions import Session
    from rlm_server.engine.run import Node
    from rlm_server.engine.tree import Tree

_MAX_SUMMARY_ATTEMPTS = 4
_MAX_COMPACTIONS_OF_ONE_TURN = 2
_MAX_TURNS_IN_A_ROW = 3
_KEPT_PART = 0.25
"""How much of the room the latest reply with its output may take to be kept as it is."""
_SUMMARY_PART = 0.25
"""How much of the room a summary may take; the rest is cut from its middle."""
_FITTING_PART = 0.9
"""How much of the window is used where the messages to be summed up must be cut to fit it."""
_REFUSED_PART = 0.75
"""How large the window is taken to be, as a part of the messages that the endpoint refused as too long."""
_MIN_CUT_CHARS = 200
_TOKENS_PER_WORD = 2
_MAX_WORDS = 600
_OPENING = 2


@dataclass(frozen=True)
class CompactionSpec:
    """When messages are compacted.

    Args:
        window_tokens: returns the size of a model's window.
        threshold: the part of the window, over 0 and at most 1, beyond which messages are compacted.
        is_enabled: False leaves messages that do not fit to the endpoint.
    """

    window_tokens: Callable[[str], int]
    threshold: float = 0.8
    is_enabled: bool = True


class Compactor:
    """Asks a node's model for its replies, and keeps what is sent within the model's window.

    It cannot go on for ever: a turn is compacted at most twice, no more than three turns in a row are, and messages
    that do not fit the window even so end the node with CONTEXT_TOO_LONG.

    Args:
        tree: the completion's.
        node: the place in the tree.
        model: the node's.
        session: gets the messages in full, as a variable.
        history_index: n of that variable, `history_n`.
        own_names: returns the names of the variables that the node's code has made.
    """

    def __init__(
        self,
        tree: Tree,
        node: Node,
        model: str,
        session: Session,
        *,
        history_index: int = 0,
        own_names: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._tree = tree
        self._run = tree.run
        self._node = node
        self._model = model
        self._session = session
        self._history_index = history_index
        self._own_names = own_names
        self._has_alias = False
        self._spec = tree.run.spec.compaction
        self._gauge = TokenGauge()
        self._window = self._spec.window_tokens(model)
        self._room = self._window * self._spec.threshold
        self._last_turn = 0
        self._turns_in_a_row = 0

    async def ask(
        self, iteration: int, transcript: Transcript, on_text: Callable[[TextPart], Awaitable[None]]
    ) -> ModelReply:
        """Asks for the next reply; what is shown to the model is compacted first where it must be.

        Args:
            iteration: the turn.
            transcript: the node's.
            on_text: gets the reply as it comes in.

        Raises:
            LimitReachedError: a limit of tokens is reached, or the messages do not fit the window, even compacted.
            ModelError: a call failed for good.
            SandboxError: the sandbox broke.
        """
        if self._spec.is_enabled and self._gauge.tokens(transcript.shown) > self._room:
            await self._compact(iteration, transcript)
        compactions = 0
        while True:
            try:
                reply = await self._tree.caller.ask(self._node.node_id, self._model, transcript.shown, on_text)
            except ModelError as error:
                if error.kind is not ModelErrorKind.CONTEXT_TOO_LONG:
                    raise
                await self._tree.caller.emit_usage(self._node.node_id)
                self._learn_that_it_is_too_much(transcript.shown)
                if not self._spec.is_enabled or compactions == _MAX_COMPACTIONS_OF_ONE_TURN:
                    raise _too_long(error.message) from None
                compactions += 1
                if not await self._compact(iteration, transcript):
                    raise _too_long(error.message) from None
            else:
                self._learn(transcript.shown, reply)
                return reply

    async def _compact(self, iteration: int, transcript: Transcript) -> bool:
        """Puts a summary in the place of messages; returns False if there are none that it could replace."""
        shown = transcript.shown
        kept = self._kept(shown)
        replaced = len(shown) - _OPENING - len(kept)
        if not replaced:
            return False
        self._count_turn(iteration)
        tokens_before = self._gauge.tokens(shown)
        reply = await self._summarize(shown[: len(shown) - len(kept)])
        summary = self._within_room(plain_reply(reply.text)) or "(The model gave no summary.)"
        await self._keep_history(transcript)
        text = fill(
            self._run.prompts.compacted,
            message_count=replaced,
            summary=summary,
            history=history_name(self._history_index),
        )
        transcript.shown = [
            transcript.system,
            Message("user", f"{transcript.question.content}\n\n{text}"),
            *kept,
        ]
        tokens_after = self._gauge.tokens(transcript.shown)
        await self._run.events.emit(
            self._node.node_id,
            event_pb2.Compacted(
                iteration=iteration,
                message_count=replaced,
                tokens_before=tokens_before,
                tokens_after=tokens_after,
                summary=summary,
                usage=reply.usage,
                history_variable=history_name(self._history_index),
            ),
        )
        if tokens_after > self._window:
            raise _too_long(
                f"even compacted, the messages have some {tokens_after:,} tokens, more than the {self._window:,} of "
                f"the window of {self._model}"
            )
        # Where what cannot be compacted takes most of the room, there must be some left to work in.
        self._room = max(self._window * self._spec.threshold, (tokens_after + self._window) / 2)
        return True

    async def _keep_history(self, transcript: Transcript) -> None:
        """Puts all messages into the REPL. A variable `history` of the code's own stays what it is."""
        history = history_input(self._history_index, transcript.history_json())
        histories = [history]
        if not self._history_index and (self._has_alias or HISTORY_ALIAS not in self._own_names()):
            histories.append(dataclasses.replace(history, name=HISTORY_ALIAS))
            self._has_alias = True
        await self._session.set_inputs(histories)

    def _kept(self, shown: Sequence[Message]) -> Sequence[Message]:
        """Returns the latest reply and its output, if there is something before them and they are not too large."""
        if len(shown) < _OPENING + 4 or self._gauge.tokens(shown[-2:]) > self._room * _KEPT_PART:
            return ()
        return shown[-2:]

    def _count_turn(self, iteration: int) -> None:
        if iteration == self._last_turn:
            return
        self._turns_in_a_row = self._turns_in_a_row + 1 if iteration == self._last_turn + 1 else 1
        self._last_turn = iteration
        if self._turns_in_a_row > _MAX_TURNS_IN_A_ROW:
            raise _too_long(
                f"the messages had to be compacted in more than {_MAX_TURNS_IN_A_ROW} turns in a row; the window of "
                f"{self._model}, {count(self._window, 'token')}, is too small for this"
            )

    async def _summarize(self, messages: Sequence[Message]) -> ModelReply:
        max_words = max(50, min(_MAX_WORDS, int(self._window * _SUMMARY_PART / _TOKENS_PER_WORD)))
        request = fill(self._run.prompts.summarize, max_words=max_words)
        for _ in range(_MAX_SUMMARY_ATTEMPTS):
            *earlier, last = self._fitted(messages, request)
            asked = [*earlier, Message(last.role, f"{last.content}\n\n{request}")]
            try:
                reply = await self._tree.caller.ask(self._node.node_id, self._model, asked)
            except ModelError as error:
                if error.kind is not ModelErrorKind.CONTEXT_TOO_LONG:
                    raise
                await self._tree.caller.emit_usage(self._node.node_id)
                self._learn_that_it_is_too_much(asked)
            else:
                self._learn(asked, reply)
                self._tree.add_usage(self._node.node_id, reply.usage)
                await self._tree.caller.emit_usage(self._node.node_id)
                await self._tree.caller.tell_of_cut(self._node.node_id, reply, "the summary of the messages")
                return reply
        raise _too_long(
            f"the messages cannot be summed up: {self._model} refuses them as too long, however much is cut"
        )

    def _fitted(self, messages: Sequence[Message], request: str) -> Sequence[Message]:
        """Returns the messages, with what is long cut in the middle if all of it would not fit the window."""
        if self._gauge.tokens(messages) + self._gauge.tokens([Message("user", request)]) <= self._window:
            return messages
        system, *others = messages
        room_bytes = self._gauge.bytes_of(self._window * _FITTING_PART) - size_bytes([system, Message("user", request)])
        lengths = [len(one.content) for one in others]
        cut = _share(lengths, room_bytes * sum(lengths) // max(1, size_bytes(others)))
        return [system, *(Message(one.role, cut_middle(one.content, cut)) for one in others)]

    def _within_room(self, summary: str) -> str:
        return cut_middle(summary, max(_MIN_CUT_CHARS, self._gauge.bytes_of(self._window * _SUMMARY_PART)))

    def _learn(self, messages: Sequence[Message], reply: ModelReply) -> None:
        if not reply.usage.unreported_call_count:
            self._gauge.learn(messages, reply.usage.input_tokens)

    def _learn_that_it_is_too_much(self, messages: Sequence[Message]) -> None:
        """Takes note that the endpoint refused messages: the window is smaller than they are."""
        self._window = min(self._window, int(self._gauge.mean_tokens(messages) * _REFUSED_PART))
        self._room = min(self._room, self._window * self._spec.threshold)


def _share(lengths: Sequence[int], room: int) -> int:
    """Returns the length to which each may be cut so that all together fit the room: the short ones stay whole."""
    left = room
    for position, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - position)
        if length > share:
            return max(share, _MIN_CUT_CHARS)
        left -= length
    return max(lengths)


def _too_long(message: str) -> LimitReachedError:
    return LimitReachedError(event_pb2.FINISH_REASON_CONTEXT_TOO_LONG, message)
