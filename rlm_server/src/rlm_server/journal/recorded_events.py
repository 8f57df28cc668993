"""The events of an earlier run, so that a run that repeats it tells nothing twice."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

DELTA_KINDS = frozenset({"model_text_delta", "output"})
"""Kinds that tell parts of what a later event of the same node sums up."""

_OF_THE_RUN = frozenset({"parked", "resumed"})
"""Kinds that tell of a run and not of the completion."""

KIND_NUMBERS = {field.name: field.number for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields}
"""Field numbers of all kinds, by their names."""

STRUCTURAL_KIND_NUMBERS = frozenset(number for name, number in KIND_NUMBERS.items() if name not in DELTA_KINDS)
"""Field numbers of the kinds that are told once."""


def kind_number(event: event_pb2.Event) -> int:
    """Returns the field number of an event's kind."""
    return KIND_NUMBERS[str(event.WhichOneof("kind"))]


class RecordedEvents:
    """Tells which events of a repeated run were told by the earlier one.

    Args:
        events: the earlier run's, without deltas.
    """

    def __init__(self, events: Iterable[event_pb2.Event]) -> None:
        self._left = collections.Counter(
            _identity(event) for event in events if event.WhichOneof("kind") not in _OF_THE_RUN
        )

    def take(self, event: event_pb2.Event) -> bool:
        """Tells whether the earlier run told this, and has not been matched with another event yet."""
        if not self._left:
            return False
        identity = _identity(event)
        left = self._left.pop(identity, 0)
        if left > 1:
            self._left[identity] = left - 1
        return left > 0


def _identity(event: event_pb2.Event) -> tuple[object, ...]:
    """Returns what an event has in common with the one that tells the same in a repeated run.

    Times, usage and previews may differ between the two; the place in the tree, the turn and the block do not.
    """
    kind = str(event.WhichOneof("kind"))
    content = getattr(event, kind)
    if kind == "warning":
        return (event.node_id, kind, content.code, content.message)
    if kind in ("tool_call", "tool_call_finished"):
        return (event.node_id, kind, content.call_id)
    if kind == "file_content":
        return (event.node_id, kind, content.path, content.offset)
    if kind == "sandbox_restored":
        return (event.node_id, kind, content.cause)
    places = tuple(getattr(content, name) for name in ("iteration", "block") if hasattr(content, name))
    return (event.node_id, kind, *places)
