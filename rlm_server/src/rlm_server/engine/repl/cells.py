"""Runs a node's blocks of code and tells about them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.answers.answer import Answer, AnswerForm
from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports.sessions import CellResult, VariablesState
from rlm_server.engine.text import clean
from rlm_server.engine.truncation import HeadAndTail, cut_middle

if TYPE_CHECKING:
    from rlm_server.engine.limits import CellBounds
    from rlm_server.engine.ports.sessions import Session
    from rlm_server.engine.run import Node
    from rlm_server.engine.tree import Tree

_MAX_CODE_BYTES = 1024 * 1024
_MAX_TRACEBACK_CHARS = 4000
_MIN_WALL_TIME_SECONDS = 0.001


@dataclass(frozen=True)
class Cell:
    """A block of code that has run.

    Args:
        result: how it went.
        output: what it wrote, as the model is shown it.
        shown_chars: how many characters of output that is.
        error: the traceback or the cause of the kill, as the model is shown it.
        answer: the final answer that it gave.
        problem: why an answer that it gave was not taken.
        restored: names of the REPL that it had rebound, and that were put back.
        changed: inputs that it changed in place, and that stay so.
    """

    result: CellResult
    output: str
    shown_chars: int
    error: str
    answer: Answer | None
    problem: str
    restored: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it raised or was killed."""
        return self.result.outcome != event_pb2.CODE_OUTCOME_OK


@dataclass
class WrittenFiles:
    """The files that a node's blocks have written.

    Args:
        sizes: their sizes in bytes, by paths, in the order in which they were written first.
        unlisted_count: how many more there may be, whose paths were not told.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    unlisted_count: int = 0

    def add(self, result: CellResult) -> None:
        """Takes note of what a block did."""
        if result.variables is VariablesState.LOST:
            self.sizes.clear()
        self.sizes.update(result.files)
        self.unlisted_count += result.files_omitted_count


@dataclass(frozen=True)
class _Running:
    iteration: int
    block: int
    output: HeadAndTail
    start_seconds: float


class CellRunner:
    """Runs the blocks of one node.

    Args:
        tree: the completion's.
        node: the place in the tree.
        session: the node's sandbox.
    """

    def __init__(self, tree: Tree, node: Node, session: Session) -> None:
        self._tree = tree
        self._run = tree.run
        self._node = node
        self._session = session
        self._running: _Running | None = None
        self.draft = ""
        """The content of `answer` as far as it is known."""
        self.holds_answer = False
        """Whether the dict `answer` has content, as of the last block that told."""
        self.ran_count = 0
        """How many blocks have run."""
        self.value_names: frozenset[str] = frozenset()
        """Names of the variables that hold values, as of the last block that told."""
        self.written_files = WrittenFiles()
        """What the blocks have written to the scratch directory."""

    async def run(self, iteration: int, block: int, code: str, max_output_chars: int) -> Cell:
        """Runs a block.

        Args:
            iteration: the turn.
            block: its number in the reply, from 1.
            code: Python source.
            max_output_chars: how much of the output the model may be shown.

        Raises:
            SandboxError: the sandbox broke.
        """
        node_id, events = self._node.node_id, self._run.events
        await events.emit(node_id, event_pb2.CodeStarted(iteration=iteration, block=block, code=code))
        output = HeadAndTail(max(max_output_chars, 2))
        self._running = _Running(iteration, block, output, self._run.clock.monotonic_seconds())

        async def on_output(stream: event_pb2.OutputStream.ValueType, text: str) -> None:
            text = clean(text)
            output.write(text)
            await events.emit(
                node_id, event_pb2.OutputDelta(iteration=iteration, block=block, stream=stream, text=text)
            )

        if len(code.encode()) > _MAX_CODE_BYTES:
            message = f"the block is longer than {_MAX_CODE_BYTES:,} bytes"
            result = CellResult(event_pb2.CODE_OUTCOME_EXCEPTION, "CodeTooLongError", message)
        else:
            result = await self._session.run_cell(code, self._bounds(), on_output)
        self.ran_count += 1
        self._run.budget.record_cell(result)
        self.written_files.add(result)
        cell = self._judge(result, output)
        # Sub-calls that the block did not wait for, or that were running when it was killed, are over with it.
        await self._tree.end_below(node_id, event_pb2.FINISH_REASON_CANCELLED, "the block that made the call is over")
        await events.emit(node_id, _code_finished(iteration, block, output, result))
        self._running = None
        await self._warn_about(cell, output)
        return cell

    async def interrupt(self, cause: str, variables: VariablesState) -> None:
        """Tells the end of the block that was running when its task was cancelled; does nothing if none was.

        Args:
            cause: why it was.
            variables: what became of the session's variables.
        """
        running = self._running
        if running is None:
            return
        self._running = None
        elapsed_seconds = self._run.clock.monotonic_seconds() - running.start_seconds
        result = CellResult(
            event_pb2.CODE_OUTCOME_CANCELLED,
            "Cancelled",
            cause,
            variables=variables,
            wall_time_seconds=elapsed_seconds,
        )
        await self._run.events.emit(
            self._node.node_id, _code_finished(running.iteration, running.block, running.output, result)
        )

    def _bounds(self) -> CellBounds:
        cell = self._run.spec.limits.cell
        remaining_seconds = max(self._run.budget.remaining_seconds(), _MIN_WALL_TIME_SECONDS)
        return dataclasses.replace(
            cell, wall_time_seconds=min(cell.wall_time_seconds or remaining_seconds, remaining_seconds)
        )

    def _judge(self, result: CellResult, output: HeadAndTail) -> Cell:
        report = result.after_cell if isinstance(result.after_cell, dict) else {}
        final, answer = _answer_of(report, "final"), _answer_of(report, "answer")
        problem = _text_of(report, "problem") or clean(result.after_cell_error)
        if answer and result.outcome != event_pb2.CODE_OUTCOME_OK and not final:
            problem = 'the block that set answer["ready"] failed; set it again if the answer stands'
            self.draft = answer.text
            answer = None
        given = final or answer
        if result.variables is VariablesState.KEPT and result.after_cell is not None:
            self.draft = _text_of(report, "draft") or self.draft
            self.holds_answer = bool(_text_of(report, "draft") or report.get("answer"))
            self.value_names = frozenset(_texts_of(report, "names"))
        error = ""
        if result.outcome != event_pb2.CODE_OUTCOME_OK:
            error = clean(result.traceback.strip() or f"{result.error_type}: {result.error_message}")
        return Cell(
            result=result,
            output=output.render(),
            shown_chars=output.total_chars - output.hidden_chars,
            error=cut_middle(error, _MAX_TRACEBACK_CHARS),
            answer=given,
            problem=problem,
            restored=tuple(_texts_of(report, "restored")),
            changed=tuple(_texts_of(report, "changed")),
        )

    async def _warn_about(self, cell: Cell, output: HeadAndTail) -> None:
        node_id, events, result = self._node.node_id, self._run.events, cell.result
        if output.hidden_chars:
            await events.warn(
                node_id,
                event_pb2.WARNING_CODE_OUTPUT_TRUNCATED,
                f"{output.hidden_chars:,} of {output.total_chars:,} characters of output are not shown to the model",
            )
        if result.error_type == "UnknownVariableError":
            await events.warn(node_id, event_pb2.WARNING_CODE_UNKNOWN_FINAL_VARIABLE, clean(result.error_message))
        if cell.restored:
            names = ", ".join(cell.restored)
            message = f"code had rebound {names}, which was put back"
            await events.warn(node_id, event_pb2.WARNING_CODE_NAME_RESTORED, message)
        if cell.changed:
            message = f"code has changed {', '.join(cell.changed)} in place, which stays so"
            await events.warn(node_id, event_pb2.WARNING_CODE_INPUT_CHANGED, message)
        if result.variables is VariablesState.LOST:
            await events.warn(
                node_id, event_pb2.WARNING_CODE_VARIABLES_LOST, "the sandbox was reset and its variables are lost"
            )
        if result.variables is VariablesState.RESTORED:
            await events.emit(
                node_id,
                event_pb2.SandboxRestored(
                    cause=cell.error,
                    replayed_cell_count=result.replayed_cell_count,
                    wall_time=to_duration(result.restoration_seconds),
                ),
            )


def _code_finished(iteration: int, block: int, output: HeadAndTail, result: CellResult) -> event_pb2.CodeFinished:
    return event_pb2.CodeFinished(
        iteration=iteration,
        block=block,
        outcome=result.outcome,
        error_type=clean(result.error_type),
        error_message=clean(result.error_message),
        traceback=clean(result.traceback),
        output_chars=output.total_chars,
        output_chars_hidden=output.hidden_chars,
        wall_time=to_duration(result.wall_time_seconds),
        cpu_time=to_duration(result.cpu_time_seconds),
        fuel=result.fuel,
        memory_bytes=result.memory_bytes,
        variables_lost=result.variables is VariablesState.LOST,
        files=[event_pb2.WrittenFile(path=clean(path), size_bytes=size) for path, size in result.files],
        files_omitted_count=result.files_omitted_count,
    )


# What the prelude reports comes from the sandbox, where code may have tampered with it.


def _text_of(report: dict[str, object], key: str) -> str:
    value = report.get(key)
    return clean(value) if isinstance(value, str) else ""


def _texts_of(report: dict[str, object], key: str) -> list[str]:
    values = report.get(key)
    return [clean(value) for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _answer_of(report: dict[str, object], key: str) -> Answer | None:
    value = report.get(key)
    if not isinstance(value, dict):
        return None
    text = _text_of(value, "text")
    return Answer(text, AnswerForm.JSON if value.get("form") == "json" else AnswerForm.TEXT) if text.strip() else None
