"""What a model is told of the completions before this one in its conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_server.engine.messages.transcript import history_name
from rlm_server.engine.prompts import fill
from rlm_server.engine.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.conversations.turns import Exchange, Past
    from rlm_server.engine.prompts import PromptSet


def follow_up(prompts: PromptSet, past: Past) -> str:
    """Returns the text that goes before the question."""
    left_out = past.completion_count - len(past.exchanges)
    lines = [f"({count(left_out, 'earlier turn')} left out here)"] if left_out else []
    lines += [_render(number, exchange) for number, exchange in enumerate(past.exchanges, left_out + 1)]
    return fill(
        prompts.follow_up,
        exchanges="\n".join(lines),
        histories=_histories(past.completion_count),
        variables=fill(prompts.variables_lost if past.variables_lost else prompts.variables_kept),
    )


def earlier_parts(past: Past) -> Sequence[str]:
    """Returns a line for each variable that the contexts of earlier completions are."""
    lines = [f"- `{part.name}`: {part.type_name}, {part.size} (from before)" for part in past.parts]
    lines += [
        f"- `{new_name}`: your variable `{name}`, whose name a new part has" for name, new_name in past.moved.items()
    ]
    if len(past.context_names) > 1:
        lines.append("- `context`: a dict of the first question's by name")
    elif list(past.context_names) != ["context"]:
        lines.append(f"- `context`: the same value as `{past.context_names[0]}`")
    return lines


def _render(number: int, exchange: Exchange) -> str:
    answer = exchange.answer or "(none)"
    note = "" if exchange.is_final else " (no final one was given)"
    return f"{number}. Question: {exchange.query}\n   Answer{note}: {answer}"


def _histories(completion_count: int) -> str:
    first = f"`{history_name(0)}` (also `history`, unless that is a variable of yours)"
    if completion_count == 1:
        return first
    last = f"`{history_name(completion_count - 1)}`"
    return f"{first}, {last}" if completion_count == 2 else f"{first} to {last}"
