"""What came of a sub-call."""

from __future__ import annotations

from dataclasses import dataclass

from rlm_api.rlm.v1 import event_pb2

FINISH_KINDS = {
    event_pb2.FINISH_REASON_MAX_ITERATIONS: "max_iterations",
    event_pb2.FINISH_REASON_WALL_TIME: "wall_time",
    event_pb2.FINISH_REASON_MAX_TOKENS: "max_tokens",
    event_pb2.FINISH_REASON_MAX_COST: "max_cost",
    event_pb2.FINISH_REASON_MAX_SUBCALLS: "max_subcalls",
    event_pb2.FINISH_REASON_MAX_ERRORS: "max_errors",
    event_pb2.FINISH_REASON_MODEL_ERROR: "model_error",
    event_pb2.FINISH_REASON_SANDBOX_ERROR: "sandbox_error",
    event_pb2.FINISH_REASON_NO_PROGRESS: "no_progress",
    event_pb2.FINISH_REASON_CONTEXT_TOO_LONG: "context_too_long",
}
"""What code can tell the failures of child RLMs apart by."""


@dataclass(frozen=True)
class SubcallOutcome:
    """What came of one sub-call: a reply, or a failure.

    Args:
        reason: how it ended.
        text: the reply.
        kind: what code can tell failures apart by; empty if it did not fail.
        message: the failure, for people.
        partial_answer: what a child RLM had of an answer when it failed.
    """

    reason: event_pb2.FinishReason.ValueType
    text: str = ""
    kind: str = ""
    message: str = ""
    partial_answer: str = ""

    def to_json(self) -> dict[str, str]:
        """Returns what the REPL is told."""
        if not self.kind:
            return {"text": self.text}
        return {"kind": self.kind, "message": self.message, "partial_answer": self.partial_answer}
