"""Checks when a request wants messages to be summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_server.engine.messages.compaction import CompactionSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlm_api.rlm.v1 import completion_service_pb2 as pb
    from rlm_common.errors import Violations

MIN_WINDOW_TOKENS = 1000
"""Least size of a model's window; a system message alone takes that much."""


def check_compaction(
    compaction: pb.Compaction, window_tokens: Callable[[str], int], threshold: float, violations: Violations
) -> CompactionSpec:
    """Returns when messages are summed up; what is wrong goes to `violations`.

    Args:
        compaction: the request's.
        window_tokens: returns what is known of a model's window.
        threshold: used where the request gives none.
        violations: collects wrong fields.
    """
    wanted = compaction.context_window_tokens
    violations.check(
        wanted == 0 or wanted >= MIN_WINDOW_TOKENS,
        "compaction.context_window_tokens",
        f"is {wanted}; must be at least {MIN_WINDOW_TOKENS}, or absent for the model's",
    )
    if compaction.HasField("threshold"):
        threshold = compaction.threshold
        violations.check(
            0 < threshold <= 1,  # NaN fails as well
            "compaction.threshold",
            f"is {threshold:g}; must be over 0 and at most 1, as 0.8",
        )
    return CompactionSpec(
        window_tokens=(lambda _: wanted) if wanted else window_tokens,
        threshold=threshold,
        is_enabled=not compaction.disabled,
    )
