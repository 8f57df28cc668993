"""The messages of a node's conversation with its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_server.engine.ports import Message, VariablesState
from rlm_server.engine.text import count

if TYPE_CHECKING:
    from rlm_server.engine.cells import Cell
    from rlm_server.engine.prompts import PromptSet
    from rlm_server.engine.run import ContextPart, Node, NodeTask, Run

_PLAIN_RLM_QUERY = "here the same as `llm_query`, with the context put after the prompt."
_RECURSIVE_RLM_QUERY = (
    "asks a model that works as you do, with a REPL of its own, for parts that need several steps. Its variable "
    "`context` is the one you give (text, or lists and dicts as JSON has them), or else the prompt. Returns the "
    "answer; fails as `llm_query` does, with what there was of an answer in the error's `partial_answer`. It costs "
    "much more."
)


def opening(run: Run, node: Node, task: NodeTask) -> list[Message]:
    """Returns the messages that a node begins with."""
    limits = run.spec.limits
    recursive = node.depth < limits.max_depth
    system = run.prompts.system.substitute(
        rlm_query_note=_RECURSIVE_RLM_QUERY if recursive else _PLAIN_RLM_QUERY,
        max_output_chars=f"{limits.max_output_chars:,}",
        max_iterations=limits.max_iterations,
        max_subcalls=f"{limits.max_subcalls:,}",
    )
    parts = [_describe(run.prompts, part) for part in task.contexts]
    if len(parts) > 1:
        parts.append("- `context`: a dict of all of these by name")
    elif task.contexts[0].value.name != "context":
        parts.append("- `context`: the same value")
    question = run.prompts.task.substitute(query=task.query, contexts="\n".join(parts))
    return [Message("system", system), Message("user", f"{question}\n\n{status_line(run, 1)}")]


def status_line(run: Run, iteration: int) -> str:
    """Returns the line that tells the turn and what is left of the budget."""
    budget = run.budget
    left = [count(budget.subcalls_left, "sub-call"), _duration(budget.remaining_seconds())]
    if budget.input_tokens_left is not None:
        left.append(count(budget.input_tokens_left, "input token"))
    if budget.output_tokens_left is not None:
        left.append(count(budget.output_tokens_left, "output token"))
    return run.prompts.turn.substitute(
        iteration=iteration, max_iterations=run.spec.limits.max_iterations, budget=", ".join(left)
    )


def block_report(prompts: PromptSet, cell: Cell, number: int, total: int) -> str:
    """Returns what the model is shown of a block that has run."""
    heading = "REPL output:" if total == 1 else f"REPL output of block {number} of {total}:"
    parts = [heading]
    if cell.output:
        parts.append(cell.output.rstrip("\n"))
    elif not cell.error:
        parts.append("(no output; print what you want to see)")
    if cell.result.output_dropped_bytes:
        parts.append(f"[{cell.result.output_dropped_bytes:,} more bytes of output were dropped by the sandbox]")
    if cell.error:
        parts.append(cell.error)
    if cell.result.variables is VariablesState.LOST:
        parts.append(prompts.variables_lost.template)
    elif cell.result.variables is VariablesState.RESTORED:
        parts.append(prompts.variables_restored.template)
    if cell.problem:
        parts.append(prompts.answer_not_taken.substitute(problem=cell.problem))
    if cell.failed and number < total:
        parts.append(f"[{count(total - number, 'later block')} of the reply did not run]")
    return "\n".join(parts)


def _describe(prompts: PromptSet, part: ContextPart) -> str:
    size = count(part.size_bytes, "byte")
    if part.size_chars is not None and part.type_name == "str":
        size = count(part.size_chars, "character")
    elif part.type_name != "str":
        size = f"{size} as JSON"
    return prompts.context_part.substitute(
        name=part.value.name,
        type=part.type_name,
        size=size,
        description=f": {part.description}" if part.description else "",
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
