"""The texts that models are given: what a request wants, and what a server has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Prompts:
    """The texts that a completion's models are given.

    Args:
        name: a set of texts that the server has; empty means its default. `Client.prompts` tells which there are.
        overrides: texts that take the place of some of the set's, by their names. Each must have the placeholders
            that the server requires of it, as `$query`.
    """

    name: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)

    def to_proto(self) -> pb.Prompts:
        """Returns the message."""
        return pb.Prompts(name=self.name, overrides=self.overrides)


@dataclass(frozen=True)
class PromptSets:
    """The sets of texts that a server has.

    Args:
        sets: those that `Prompts.name` takes, with their texts and what must be in a replacement.
        default_name: the one that is used where a request names none.
        model_notes: advice that models are given besides; for each model the first that fits its name.
    """

    sets: Sequence[pb.PromptSet]
    default_name: str
    model_notes: Sequence[pb.ModelNote]

    @classmethod
    def from_proto(cls, response: pb.ListPromptsResponse) -> PromptSets:
        """Returns what a response says."""
        return cls(tuple(response.prompt_sets), response.default_name, tuple(response.model_notes))
