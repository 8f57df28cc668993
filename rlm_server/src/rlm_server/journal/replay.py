"""Does once more, in a new sandbox, what recorded blocks of code did in one that is lost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rlm_server.engine.conversations.kept_repl import BEGIN_BOUNDS
from rlm_server.engine.conversations.turns import Replayed
from rlm_server.engine.ports.sessions import VariablesState
from rlm_server.journal.host_calls import ReplayedCalls
from rlm_server.journal.records import text_by_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.conversations.turns import Answering
    from rlm_server.engine.ports.inputs import InputValue
    from rlm_server.engine.ports.sessions import Session
    from rlm_server.journal.records import CellRecord

_REPLAY_SECONDS = 120.0


@dataclass(frozen=True)
class InputsSet:
    """Variables that were set between two blocks."""

    inputs: Sequence[InputValue]


@dataclass(frozen=True)
class CompletionBegun:
    """The code that made the REPL of a conversation ready for its next completion."""

    code: str


@dataclass(frozen=True)
class Block:
    """A block that ran.

    Args:
        record: what it did.
        name: what to call it in messages.
    """

    record: CellRecord
    name: str


Step: TypeAlias = InputsSet | CompletionBegun | Block


def add_block(steps: list[Step], block: Block) -> None:
    """Adds a block to what a sandbox was made of, and takes away what it cost that."""
    if block.record.result.variables is VariablesState.LOST:
        steps[:] = [step for step in steps if isinstance(step, InputsSet)]
    elif block.record.result.variables is VariablesState.KEPT:
        steps.append(block)


async def replay(session: Session, steps: Sequence[Step], answer_with: Callable[[Answering | None], None]) -> Replayed:
    """Takes the steps in a new sandbox; its host calls get the answers that they got.

    Args:
        session: the sandbox's.
        steps: what the one before was made of.
        answer_with: gets what answers the host calls of each block, and None when it is over.

    Raises:
        SandboxError: the sandbox broke.
    """
    count = 0
    problems: list[str] = []
    variables_lost = False
    for step in steps:
        if isinstance(step, InputsSet):
            await session.set_inputs(step.inputs)
        elif isinstance(step, CompletionBegun):
            await session.run_cell(step.code, BEGIN_BOUNDS, _Written().take)
        else:
            count += 1
            record = step.record
            calls, written = ReplayedCalls(record.calls), _Written()
            answer_with(calls.answer)
            try:
                bounds = dataclasses.replace(record.bounds, wall_time_seconds=_REPLAY_SECONDS)
                result = await session.run_cell(record.code, bounds, written.take)
            finally:
                answer_with(None)
            same_output = text_by_stream(written.output) == text_by_stream(record.output)
            if result.outcome != record.result.outcome or calls.diverged or not same_output:
                problems.append(diverged(step.name, "did not do the same once more"))
            variables_lost = variables_lost or result.variables is VariablesState.LOST
    return Replayed(count, problems, variables_lost)


def diverged(block: str, what: str) -> str:
    """Returns what the warning of a block says that did not do once more what it had done."""
    return (
        f"the sandbox was rebuilt, but {block} {what}, as when it depends on the time; variables may differ "
        "from what they were"
    )


class _Written:
    """Collects what a block writes."""

    def __init__(self) -> None:
        self.output: list[tuple[int, str]] = []

    async def take(self, stream: event_pb2.OutputStream.ValueType, text: str) -> None:
        self.output.append((stream, text))
