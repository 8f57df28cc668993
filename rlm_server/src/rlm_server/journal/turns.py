"""What the journal has of the completions of a conversation, and how their REPL is made of it once more."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from rlm_server.engine.conversations.turns import EarlierPart, Recipe, TurnEnd, TurnStart
from rlm_server.engine.messages.transcript import history_input
from rlm_server.engine.ports.executors import Prelude, SandboxOpenError, SessionSpec
from rlm_server.engine.ports.host_calls import HostCallError
from rlm_server.engine.ports.models import TextPart
from rlm_server.engine.ports.sessions import SandboxError, VariablesState
from rlm_server.engine.repl.prelude import make_room_code
from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.journal.appends import Payload
from rlm_server.journal.blobs import BlobMissingError
from rlm_server.journal.conversation_rows import TURN_START_KEY
from rlm_server.journal.executor import chance_seed
from rlm_server.journal.inputs import decode_inputs, inputs_from_json, inputs_to_json
from rlm_server.journal.records import CellRecord, ModelRecord, pack, unpack
from rlm_server.journal.replay import Block, CompletionBegun, InputsSet, Step, add_block, replay
from rlm_server.journal.schema import completions, steps
from rlm_server.journal.writer import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rlm_server.engine.conversations.turns import Answering, Replayed
    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.ports.sessions import Session
    from rlm_server.journal.blobs import BlobStore
    from rlm_server.journal.database import Database
    from rlm_server.journal.recorder import Recorder
    from rlm_server.journal.store import Journal

_END_KEY = "r/end"
_CELL_PREFIX = f"c/{ROOT_NODE_ID}/"
_INPUTS_PREFIX = f"i/{ROOT_NODE_ID}/"
_REPLY_PREFIX = f"m/{ROOT_NODE_ID}/"


@dataclass(frozen=True)
class RecordedTurn:
    """A completion that has begun in a conversation.

    Args:
        completion_id: the completion's.
        start: how it began.
        end: what it came to.
        actions: what its code did, in order: blocks that ran, and variables that were set between them.
    """

    completion_id: str
    start: TurnStart
    end: TurnEnd
    actions: Sequence[CellRecord | InputsSet]


class RecordedTurns:
    """The completions of a conversation, as an `EarlierTurns`.

    Args:
        journal: has them.
        conversation_id: the conversation's.
        before: the number of the first that does not count.
    """

    def __init__(self, journal: Journal, conversation_id: str, before: int) -> None:
        self._journal = journal
        self._conversation_id = conversation_id
        self._before = before

    async def load(self) -> list[RecordedTurn]:
        """Returns those that have begun, first to last.

        Raises:
            BlobMissingError: some of what is recorded of them is not there any more.
            StorageUnavailableError: the journal cannot be read at present.
        """

        def work(_: Database, connection: sa.Connection) -> dict[str, dict[str, Payload]]:
            mine = completions.c.conversation_id == self._conversation_id
            return _steps_of(connection, mine & (completions.c.turn < self._before))

        return await self._decoded(await self._journal.read(work))

    async def recipe(self, done_count: int) -> Recipe:
        """Returns what the REPL can be made of; see `EarlierTurns`."""
        try:
            return await self._recipe(done_count)
        except StorageUnavailableError as error:
            raise SandboxOpenError(f"what the REPL was made of cannot be read: {error}", may_pass=True) from error
        except BlobMissingError as error:
            raise SandboxError(f"the conversation's REPL cannot be made once more: {error}") from error

    async def _recipe(self, done_count: int) -> Recipe:
        return _recipe_of(await self.load(), done_count)

    async def _decoded(self, recorded: Mapping[str, Mapping[str, Payload]]) -> list[RecordedTurn]:
        def decode() -> list[RecordedTurn]:
            return [
                _decode_turn(completion_id, its_steps, self._journal)
                for completion_id, its_steps in recorded.items()
                if TURN_START_KEY in its_steps
            ]

        try:
            return await asyncio.to_thread(decode)
        except OSError as error:
            raise StorageUnavailableError(f"the blob store cannot be read: {error}") from error


class TurnRecorder(RecordedTurns):
    """Takes note of a completion of a conversation, as a `TurnLog`.

    Args:
        journal: where to.
        recorder: the completion's.
        conversation_id: the conversation's.
        turn: the completion's number in it.
    """

    def __init__(self, journal: Journal, recorder: Recorder, conversation_id: str, turn: int) -> None:
        super().__init__(journal, conversation_id, turn)
        self._recorder = recorder

    async def start(self, start: TurnStart) -> None:
        """Takes note that it has begun; see `TurnLog`."""
        if await self._recorder.recorded(TURN_START_KEY) is None:
            await self._recorder.record(TURN_START_KEY, await asyncio.to_thread(_encode_start, start))

    async def end(self, end: TurnEnd) -> None:
        """Takes note of what it came to; see `TurnLog`."""
        if await self._recorder.recorded(_END_KEY) is None:
            record = {"answer": end.answer, "is_final": end.is_final, "history": end.history}
            await self._recorder.record(_END_KEY, await asyncio.to_thread(pack, record))

    async def _recipe(self, done_count: int) -> Recipe:
        def work(_: Database, connection: sa.Connection) -> dict[str, dict[str, Payload]]:
            return _steps_of(connection, completions.c.completion_id == self._recorder.completion_id)

        mine = await self._decoded(await self._journal.read(work))
        # A block of its own may have cost what earlier completions made.
        return _recipe_of(await self.load(), done_count, variables_lost=_lose_variables(mine))


def _recipe_of(turns: Sequence[RecordedTurn], done_count: int, *, variables_lost: bool = False) -> Recipe:
    if not turns:
        raise SandboxError("nothing is recorded of the conversation")
    if _lose_variables(turns[done_count:]):
        done_count = 0  # which only a new sandbox does without what is lost
    taken: list[Step] = []
    for index, turn in enumerate(turns[done_count:], done_count):
        if index:
            inputs = [*turn.start.spec.inputs, history_input(index - 1, turns[index - 1].end.history)]
            if turn.start.spec.inputs:
                taken.append(CompletionBegun(make_room_code([one.name for one in turn.start.spec.inputs])))
            taken += [InputsSet(inputs), CompletionBegun(turn.start.spec.begin_code)]
        number = 0
        for action in turn.actions:
            if isinstance(action, InputsSet):
                taken.append(action)
            else:
                number += 1
                add_block(taken, Block(action, f"block {number} of completion {turn.completion_id}"))
    if variables_lost:
        taken = [step for step in taken if isinstance(step, InputsSet)]
    spec = turns[0].start.spec
    input_bytes = sum(one.size_bytes for turn in turns for one in turn.start.spec.inputs)
    input_bytes += sum(len(turn.end.history) for turn in turns)

    async def do_again(session: Session, answer_with: Callable[[Answering | None], None]) -> Replayed:
        return await replay(session, taken, answer_with)

    return Recipe(spec, input_bytes, not done_count, do_again)


def _lose_variables(turns: Sequence[RecordedTurn]) -> bool:
    records = [action for turn in turns for action in turn.actions if isinstance(action, CellRecord)]
    return any(record.result.variables is VariablesState.LOST for record in records)


def _steps_of(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[str, dict[str, Payload]]:
    """Returns the steps of the completions' roots, by completions in the order of their turns, and by their keys."""
    select = (
        sa.select(completions.c.completion_id, steps.c.key, steps.c.data, steps.c.blob)
        .join(steps, steps.c.completion_id == completions.c.completion_id)
        .where(which)
        .where(
            sa.or_(
                steps.c.key.in_([TURN_START_KEY, _END_KEY]),
                *(steps.c.key.startswith(prefix) for prefix in (_CELL_PREFIX, _INPUTS_PREFIX, _REPLY_PREFIX)),
            )
        )
        .order_by(completions.c.turn)
    )
    found: dict[str, dict[str, Payload]] = {}
    for completion_id, key, data, blob in connection.execute(select):
        found.setdefault(completion_id, {})[key] = Payload(data, blob)
    return found


def _decode_turn(completion_id: str, recorded: Mapping[str, Payload], journal: Journal) -> RecordedTurn:
    start = _decode_start(journal.payloads.bytes_of(recorded[TURN_START_KEY]), completion_id, journal.blobs)
    if _END_KEY in recorded:
        end = TurnEnd(**unpack(journal.payloads.bytes_of(recorded[_END_KEY])))
    else:
        end = TurnEnd("", is_final=False, history=_history_of(start, recorded, journal))
    actions: list[tuple[tuple[int, ...], CellRecord | InputsSet]] = []
    for key, payload in recorded.items():
        if key.startswith(_CELL_PREFIX):
            record = CellRecord.decode(journal.payloads.bytes_of(payload))
            actions.append((_numbers(key, _CELL_PREFIX), record))
        elif key.startswith(_INPUTS_PREFIX):
            inputs = decode_inputs(journal.payloads.bytes_of(payload), journal.blobs)
            actions.append((_numbers(key, _INPUTS_PREFIX), InputsSet(inputs)))
    # (n,) is the n-th block; (n, m) was set after it.
    actions.sort(key=lambda one: one[0])
    return RecordedTurn(completion_id, start, end, [action for _, action in actions])


def _numbers(key: str, prefix: str) -> tuple[int, ...]:
    return tuple(int(number) for number in key.removeprefix(prefix).split("/"))


def _history_of(start: TurnStart, recorded: Mapping[str, Payload], journal: Journal) -> str:
    """Returns the messages of a completion that did not tell them, as one that was cancelled while no server had it."""
    replies = [key for key in recorded if key.startswith(_REPLY_PREFIX)]
    messages = [{"role": "user", "content": start.query}]
    for key in sorted(replies, key=lambda key: _numbers(key, _REPLY_PREFIX)):
        reply = ModelRecord.decode(journal.payloads.bytes_of(recorded[key]))
        text = "".join(part.text for part in reply.parts if isinstance(part, TextPart) and not part.reasoning)
        messages.append({"role": "assistant", "content": text})
    return json.dumps(messages, ensure_ascii=False)


def _encode_start(start: TurnStart) -> bytes:
    spec = start.spec
    return pack(
        {
            "query": start.query,
            "parts": [[part.name, part.type_name, part.size] for part in start.parts],
            "inputs": inputs_to_json(spec.inputs),
            "prelude": [spec.prelude.source, spec.prelude.setup],
            "begin_code": spec.begin_code,
            "host_functions": list(spec.host_functions),
            "memory_bytes": spec.memory_bytes,
            "seed": spec.seed,
        }
    )


def _decode_start(data: bytes, completion_id: str, blobs: BlobStore) -> TurnStart:
    value: dict[str, Any] = unpack(data)
    spec = SessionSpec(
        inputs=inputs_from_json(value["inputs"], blobs),
        prelude=Prelude(*value["prelude"]),
        host_functions=value["host_functions"],
        on_host_call=_refuse,
        memory_bytes=value["memory_bytes"],
        begin_code=value["begin_code"],
        node_id=ROOT_NODE_ID,
        seed=value["seed"],
        chance_seed=None if value["seed"] is not None else chance_seed(completion_id, ROOT_NODE_ID),
    )
    return TurnStart(value["query"], [EarlierPart(*part) for part in value["parts"]], spec)


async def _refuse(_: HostCall) -> object:
    raise HostCallError("bad_call", "no completion runs in this conversation")
