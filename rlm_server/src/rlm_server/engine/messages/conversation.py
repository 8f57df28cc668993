"""The messages of a node's conversation with its model."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rlm_server.engine.budgets.accounts import dollars
from rlm_server.engine.conversations.follow_ups import earlier_parts, follow_up
from rlm_server.engine.ports.models import Message
from rlm_server.engine.ports.sessions import VariablesState
from rlm_server.engine.prompts import fill
from rlm_server.engine.repl.outlines import IMAGE_TYPE_NAME
from rlm_server.engine.repl.tools import tools_section
from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.engine.text import count
from rlm_server.engine.truncation import cut_middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.prompts import PromptSet
    from rlm_server.engine.repl.cells import Cell
    from rlm_server.engine.repl.context_parts import ContextPart
    from rlm_server.engine.run import Node, NodeTask, Run
    from rlm_server.engine.tree import Tree

_MAX_OUTLINE_CHARS = 8_000
"""How much a model is told of the shapes of all parts of its context together."""

_LEAST_OUTLINE_CHARS = 100
"""Less than that says nothing of a part, so it is left out."""

_MAX_LISTED_PACKAGES = 50
_MAX_LISTED_MODELS = 20

_SUBCALL_CHARS = 100_000
"""How much text a sub-call reads well, as far as nothing is known of its model."""

_MOST_SUBCALL_CHARS = 200_000
"""The same of models with large windows, which overlook more the more they are given."""

_SUBCALL_CHARS_PER_TOKEN = 1.5
"""Characters for each token of the window that leave half of it free."""


def opening(tree: Tree, node: Node, task: NodeTask) -> list[Message]:
    """Returns the messages that a node begins with."""
    run = tree.run
    share = _MAX_OUTLINE_CHARS // max(1, len(task.contexts))
    parts = [_describe(run.prompts, part, share) for part in task.contexts]
    if task.past is not None:
        parts += earlier_parts(task.past)
    elif len(parts) > 1:
        parts.append("- `context`: a dict of all of these by name")
    elif task.contexts[0].value.name != "context":
        parts.append("- `context`: the same value")
    question = fill(run.prompts.task, query=task.query, contexts="\n".join(parts))
    if task.past is not None:
        question = f"{follow_up(run.prompts, task.past)}\n\n{question}"
    system = system_message(run, node, task)
    return [Message("system", system), Message("user", f"{question}\n\n{status_line(tree, node, 1)}")]


def system_message(run: Run, node: Node, task: NodeTask) -> str:
    """Returns the system message of a node with a REPL."""
    prompts, limits = run.prompts, run.spec.limits
    schema = run.spec.answer_schema_of(node.node_id)
    recursive = node.depth < limits.max_depth
    has_images = any(part.image or part.inner_images for part in task.contexts)
    if task.past is not None:  # its pictures are still there
        has_images = has_images or any(part.type_name == IMAGE_TYPE_NAME for part in task.past.parts)
    return fill(
        prompts.system,
        rlm_query_note=fill(prompts.rlm_query_recursive if recursive else prompts.rlm_query_plain),
        max_output_chars=f"{limits.max_output_chars:,}",
        subcall_chars=f"{_subcall_chars(run):,}",
        budget=fill(
            prompts.budget,
            max_iterations=limits.max_iterations,
            max_subcalls=f"{limits.max_subcalls:,}",
            wall_time=_duration(limits.wall_time_seconds),
        ),
        models_note=_models_note(run),
        images_note=fill(prompts.images_note) if has_images else "",
        packages_note=fill(prompts.packages_note, packages=_listed(task.packages)) if task.packages else "",
        files_note=_files_note(run, node),
        tools=tools_section(run.tools_of(node)),
        answer_format=fill(prompts.answer_format, schema=schema.text) if schema else "",
        model_note=run.spec.model_note(task.model),
    )


def _files_note(run: Run, node: Node) -> str:
    wanted = run.spec.wanted_files
    if wanted is None or node.node_id != ROOT_NODE_ID:
        return ""
    patterns = ", ".join(f"`{one}`" for one in wanted.patterns) or "all of them"
    return fill(run.prompts.files_note, patterns=patterns, max_size=f"{wanted.max_bytes:,} bytes")


def _models_note(run: Run) -> str:
    spec = run.spec
    names = list(dict.fromkeys((spec.sub_model, spec.model, *spec.child_models, *spec.model_names)))
    if len(names) == 1:
        return ""
    described = [_model(run, name) for name in names[:_MAX_LISTED_MODELS]]
    if len(names) > len(described):
        described.append(f"and {len(names) - len(described)} more")
    return fill(run.prompts.models_note, models=", ".join(described))


def _model(run: Run, name: str) -> str:
    """Returns a model's name with what code may choose it by."""
    info, facts = run.models.info(name), []
    if name == run.spec.sub_model:
        facts.append("the default of `llm_query`")
    if info.window_tokens is not None:
        facts.append(f"window of {info.window_tokens:,} tokens")
    if info.price is not None:
        facts.append(f"${info.price.input:g} in and ${info.price.output:g} out for a million tokens")
    if not info.takes_images:
        facts.append("takes no images")
    return f"`{name}`" + (f" ({'; '.join(facts)})" if facts else "")


def _listed(packages: Sequence[str]) -> str:
    """Returns the names and versions of packages; of many, the first ones."""
    names = [one.replace("==", " ") for one in packages[:_MAX_LISTED_PACKAGES]]
    if len(packages) > len(names):
        names.append(f"and {len(packages) - len(names)} more")
    return ", ".join(names)


def _subcall_chars(run: Run) -> int:
    """Returns how much text a sub-call reads well, in thousands."""
    limits, window = run.spec.limits, run.models.info(run.spec.sub_model).window_tokens
    chars = _SUBCALL_CHARS if window is None else min(_MOST_SUBCALL_CHARS, int(window * _SUBCALL_CHARS_PER_TOKEN))
    chars = min(chars, limits.max_subcall_prompt_chars)
    return chars // 1000 * 1000 or chars


def status_line(tree: Tree, node: Node, iteration: int) -> str:
    """Returns the line that tells the turn and what the node has left of the budget."""
    run, left = tree.run, tree.shares.left(node.node_id)
    texts = [count(left.subcalls, "sub-call")]
    if run.spec.seed is None:  # with one, models must be told the same each time
        texts.append(_duration(left.seconds))
    if left.input_tokens is not None:
        texts.append(count(left.input_tokens, "input token"))
    if left.output_tokens is not None:
        texts.append(count(left.output_tokens, "output token"))
    if left.cost_microdollars is not None:
        texts.append(f"${dollars(left.cost_microdollars)}")
    return fill(
        run.prompts.turn,
        iteration=iteration,
        max_iterations=run.spec.limits.max_iterations,
        budget=", ".join(texts),
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
        parts.append(fill(prompts.variables_lost))
    elif cell.result.variables is VariablesState.RESTORED:
        parts.append(fill(prompts.variables_restored))
    if cell.restored:
        parts.append(fill(prompts.names_restored, names=", ".join(f"`{name}`" for name in cell.restored)))
    if cell.changed:
        parts.append(fill(prompts.inputs_changed, names=", ".join(f"`{name}`" for name in cell.changed)))
    if cell.problem:
        parts.append(fill(prompts.answer_not_taken, problem=cell.problem))
    if cell.failed and number < total:
        parts.append(f"[{count(total - number, 'later block')} of the reply did not run]")
    return "\n".join(parts)


def _describe(prompts: PromptSet, part: ContextPart, max_chars: int) -> str:
    details = cut_middle(part.outline.details, max_chars) if max_chars >= _LEAST_OUTLINE_CHARS else ""
    return fill(
        prompts.context_part,
        name=part.value.name,
        type=part.outline.type_name,
        size=part.outline.size,
        description=f": {part.description}" if part.description else "",
        outline=textwrap.indent(details, "  "),
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
