"""Ends a completion that does not run: tells the end of what was open, and that it has finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.journal.recorded_events import KIND_NUMBERS

if TYPE_CHECKING:
    from rlm_server.journal.recorder import Recorder
    from rlm_server.journal.store import Journal, StoredCompletion

_PAGE = 2000
_KINDS = {
    KIND_NUMBERS[name]
    for name in (
        "iteration_started",
        "code_started",
        "code_finished",
        "subcall_started",
        "subcall_finished",
        "usage_updated",
        "model_reply_finished",
    )
}


async def end_what_is_open(
    journal: Journal,
    stored: StoredCompletion,
    recorder: Recorder,
    reason: event_pb2.FinishReason.ValueType,
    message: str,
) -> None:
    """Records the end of blocks and sub-calls that were running, the latest first, and of the completion.

    Raises:
        StorageUnavailableError: the journal cannot be read at present.
    """
    open_nodes: dict[tuple[str, str], event_pb2.Event] = {}
    last = event_pb2.CompletionFinished(finish_reason=reason, partial=True, error=message)
    sequence = 0
    while page := await journal.events(stored.completion_id, sequence, limit=_PAGE, kinds=_KINDS):
        for event in page:
            kind = str(event.WhichOneof("kind"))
            if kind in ("code_started", "subcall_started"):
                open_nodes[event.node_id, kind.removesuffix("_started")] = event
            elif kind in ("code_finished", "subcall_finished"):
                open_nodes.pop((event.node_id, kind.removesuffix("_finished")), None)
            elif kind == "usage_updated":
                last.usage.CopyFrom(event.usage_updated.usage)
            elif kind == "iteration_started" and event.node_id == "0":
                last.iterations = event.iteration_started.iteration
            elif kind == "model_reply_finished" and event.node_id == "0":
                last.answer = event.model_reply_finished.text.strip() or last.answer
        sequence = page[-1].sequence
    for (node_id, what), event in reversed(open_nodes.items()):
        if what == "code":
            started = event.code_started
            finished = event_pb2.CodeFinished(
                iteration=started.iteration,
                block=started.block,
                outcome=event_pb2.CODE_OUTCOME_CANCELLED,
                error_type="Cancelled",
                error_message=message,
                variables_lost=True,
            )
            await recorder.tell(node_id, finished)
        else:
            await recorder.tell(node_id, event_pb2.SubcallFinished(finish_reason=reason, error=message))
    last.wall_time.FromNanoseconds(stored.running_time)
    await recorder.end(last)
    await journal.release_contexts(stored.completion_id)
