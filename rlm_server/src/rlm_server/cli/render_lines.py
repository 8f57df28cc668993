r"""A completion as plain lines: `NODE KIND [TURN[.BLOCK]] | TEXT`.

Text of several lines becomes several lines with the same head, so that `grep '^0 answer'` finds the whole answer and
`grep '^0\.2 '` all that happened in node 0.2. Kinds: started, turn, reply, code, stdout, stderr, result, subcall,
subresult, tool, toolresult, warning, direct, compacted, file, restored, parked, resumed, finished, answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rlm_api.rlm.v1 import event_pb2

from rlm_server.cli import words

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rlm_client import Completion, Event


class LineRenderer:
    """Writes plain lines to stdout as events come."""

    def __init__(self) -> None:
        # Output comes in pieces that need not end with a line; what is left waits here, by the head of its lines.
        self._unfinished_lines: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Writes the lines that output left unfinished."""
        self._flush("")

    def event(self, event: Event) -> None:
        """Writes the lines of an event."""
        node, kind = event.node_id, event.WhichOneof("kind")
        match kind:
            case "started":
                started = event.started
                _write(f"{node} started", f"{event.completion_id} model={started.model} sub_model={started.sub_model}")
                if started.conversation_id:
                    _write(f"{node} started", f"conversation {started.conversation_id}")
                for part in started.contexts:
                    _write(f"{node} started", f"{part.name}: {part.type}, {part.size_bytes} bytes")
            case "iteration_started":
                turn = event.iteration_started
                _write(f"{node} {words.turn(turn)}", f"of at most {turn.max_iterations}, model={turn.model}")
            case "model_reply_finished":
                reply = event.model_reply_finished
                text = f"{len(reply.text)} characters in {words.seconds(reply.wall_time)}, {reply.stop_reason}"
                _write(f"{node} reply {reply.iteration}", text)
            case "code_started":
                code = event.code_started
                _write(f"{node} code {code.iteration}.{code.block}", code.code)
            case "output":
                self._output(node, event.output)
            case "code_finished":
                block = event.code_finished
                self._flush(f"{node} ")
                _write(f"{node} result {block.iteration}.{block.block}", words.outcome(block))
            case "subcall_started":
                _write(f"{node} subcall", words.subcall(event.subcall_started))
            case "subcall_finished":
                call = event.subcall_finished
                text = call.error or call.answer_preview
                head = f"{words.reason(call.finish_reason)} in {words.seconds(call.wall_time)}"
                _write(f"{node} subresult", f"{head}: {words.one_line(text)}")
            case "tool_call":
                _write(f"{node} tool", words.tool_call(event.tool_call))
            case "tool_call_finished":
                _write(f"{node} toolresult", words.tool_result(event.tool_call_finished))
            case "warning":
                code_name = event_pb2.WarningCode.Name(event.warning.code).removeprefix("WARNING_CODE_")
                _write(f"{node} warning", f"{code_name}: {event.warning.message}")
            case "compacted":
                _write(f"{node} compacted {event.compacted.iteration}", words.compacted(event.compacted))
                _write(f"{node} compacted {event.compacted.iteration}", event.compacted.summary)
            case "file_content" if event.file_content.last:
                _write(f"{node} file", words.file_content(event.file_content))
            case "answered_directly":
                _write(f"{node} direct", words.answered_directly(event.answered_directly))
            case "sandbox_restored":
                _write(f"{node} restored", words.restored(event.sandbox_restored))
            case "parked":
                _write(f"{node} parked", event.parked.reason)
            case "resumed":
                _write(f"{node} resumed", event.resumed.cause)
            case "finished" | "model_text_delta" | "usage_updated" | "file_content" | None:
                pass  # shown at the end, or as a whole; None is a kind newer than this program

    def completion(self, completion: Completion) -> None:
        """Writes what the completion came to."""
        _write("0 finished", words.usage(completion))
        _write("0 answer", completion.answer)

    def _output(self, node: str, output: event_pb2.OutputDelta) -> None:
        stream = "stderr" if output.stream == event_pb2.OUTPUT_STREAM_STDERR else "stdout"
        head = f"{node} {stream} {output.iteration}.{output.block}"
        whole, newline, rest = (self._unfinished_lines.pop(head, "") + output.text).rpartition("\n")
        if newline:
            _write(head, whole)
        if rest:
            self._unfinished_lines[head] = rest

    def _flush(self, prefix: str) -> None:
        for head in [head for head in self._unfinished_lines if head.startswith(prefix)]:
            _write(head, self._unfinished_lines.pop(head))


def _write(head: str, text: str) -> None:
    typer.echo("\n".join(f"{head} | {line}" for line in text.split("\n")))
