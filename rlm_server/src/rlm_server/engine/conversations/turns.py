"""What there is to know of the completions of a conversation, and what their REPL can be made of once more.

Each completion is a turn of its conversation. `KeptRepl` tells a `TurnLog` of each as it begins and ends, and asks it
for what earlier ones did where the sandbox that they had is not there any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from rlm_server.engine.ports.executors import SessionSpec
    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.ports.sessions import Session

Answering: TypeAlias = "Callable[[HostCall], Awaitable[object]]"
"""Answers host calls."""


@dataclass(frozen=True)
class Exchange:
    """One completion of a conversation, as those after it are told of it.

    Args:
        query: what was asked; the middle of a long text is cut out.
        answer: what was answered, likewise; empty as long as there is nothing.
        is_final: whether the model declared the answer to be final.
    """

    query: str
    answer: str = ""
    is_final: bool = False


@dataclass(frozen=True)
class EarlierPart:
    """A part of the context of an earlier completion, as those after it are told of it.

    Args:
        name: the variable.
        type_name: its class.
        size: how large it is, for people.
    """

    name: str
    type_name: str
    size: str


@dataclass(frozen=True)
class Restoration:
    """How a REPL was made once more in another sandbox.

    Args:
        cause: what had happened to the one before.
        cell_count: how many blocks of earlier completions were run again.
        wall_time_seconds: how long that took.
        problems: blocks that did not do the same once more, in words.
    """

    cause: str
    cell_count: int
    wall_time_seconds: float
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Past:
    """What a completion is told of those before it in its conversation.

    Args:
        completion_count: how many there were.
        exchanges: the latest of them.
        parts: the contexts of all; `context` is the first one's.
        context_names: the variables of the first one's context.
        variables_lost: whether variables that their code made are gone.
        restoration: how their REPL was made once more, if it had to be.
        moved: the new names of variables whose names new parts of the context have, by the old ones.
    """

    completion_count: int
    exchanges: Sequence[Exchange]
    parts: Sequence[EarlierPart]
    context_names: Sequence[str]
    variables_lost: bool
    restoration: Restoration | None = None
    moved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TurnStart:
    """A completion as it begins.

    Args:
        query: what is asked; the middle of a long text is cut out.
        parts: those of its context.
        spec: what its REPL gets. The first completion's says how the sandbox is made; of later ones, only the inputs
            and `begin_code` count.
    """

    query: str
    parts: Sequence[EarlierPart]
    spec: SessionSpec


@dataclass(frozen=True)
class TurnEnd:
    """What a completion came to.

    Args:
        answer: the answer; the middle of a long text is cut out.
        is_final: whether the model declared it to be final.
        history: its messages, as the JSON of the variable that later ones find.
    """

    answer: str
    is_final: bool
    history: str


@dataclass(frozen=True)
class Replayed:
    """How it went to do once more what earlier completions did.

    Args:
        cell_count: how many blocks were run again.
        problems: blocks that did not do the same, in words.
        variables_lost: whether one of them cost the variables that were there before.
    """

    cell_count: int
    problems: Sequence[str] = ()
    variables_lost: bool = False


@dataclass(frozen=True)
class Recipe:
    """What the REPL of a conversation can be made of once more.

    Args:
        spec: the sandbox that the first completion had; its `on_host_call` is of no use.
        input_bytes: size of all that was put into it since, too.
        is_whole: it begins with a new sandbox, and not with one that has been through some of the completions.
        replay: does in a sandbox what the completions did. It gives what answers the host calls of each block, or None
            between them, to the function that it gets.
    """

    spec: SessionSpec
    input_bytes: int
    is_whole: bool
    replay: Callable[[Session, Callable[[Answering | None], None]], Awaitable[Replayed]]


class EarlierTurns(Protocol):
    """What completions did to the REPL of their conversation."""

    async def recipe(self, done_count: int) -> Recipe:
        """Returns what the REPL can be made of.

        Args:
            done_count: how many completions a sandbox that is at hand has been through. The recipe is whole if there is
                none, or if it is of no use.

        Raises:
            SandboxError: some of it is not there any more.
        """


class TurnLog(EarlierTurns, Protocol):
    """Takes note of a completion that has the REPL, and knows of those before it."""

    async def start(self, start: TurnStart) -> None:
        """Takes note that it has begun; nothing of it has run in the REPL yet."""

    async def end(self, end: TurnEnd) -> None:
        """Takes note of what it came to; nothing of it will run in the REPL any more."""
