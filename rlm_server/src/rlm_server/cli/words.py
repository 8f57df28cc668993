"""Small texts that the renderers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from rlm_api.rlm.v1 import limits_pb2
    from rlm_client import Completion, Variables

_MAX_SHOWN_FILES = 5


def seconds(duration: Duration) -> str:
    """Returns a duration as people read it, in seconds."""
    value = duration.ToNanoseconds() / 1e9
    return f"{value:.3f} s" if value < 1 else f"{value:.1f} s"


def turn(started: event_pb2.IterationStarted) -> str:
    """Returns which turn begins."""
    return f"turn {started.iteration}{' (the last answer)' if started.last_answer else ''}"


def outcome(finished: event_pb2.CodeFinished) -> str:
    """Returns how a block of code went, on one line."""
    name = event_pb2.CodeOutcome.Name(finished.outcome).removeprefix("CODE_OUTCOME_")
    error = f" {finished.error_type}: {one_line(finished.error_message)}" if finished.error_type else ""
    if not error and finished.error_message:
        error = f" {one_line(finished.error_message)}"
    hidden = (
        f", {finished.output_chars_hidden} of {finished.output_chars} characters hidden from the model"
        if finished.output_chars_hidden
        else ""
    )
    return f"{name}{error} in {seconds(finished.wall_time)}{hidden}{_files(finished)}"


def _files(finished: event_pb2.CodeFinished) -> str:
    """Returns the first files that a block wrote, and how many more there are."""
    if not finished.files:
        return ""
    shown = [f"{one_line(file.path)} ({file.size_bytes:,} bytes)" for file in finished.files[:_MAX_SHOWN_FILES]]
    more = len(finished.files) - len(shown) + finished.files_omitted_count
    return f", wrote {', '.join(shown)}" + (f" and {more:,} more" if more else "")


def reason(value: event_pb2.FinishReason.ValueType) -> str:
    """Returns the name of a finish reason."""
    return event_pb2.FinishReason.Name(value).removeprefix("FINISH_REASON_")


def subcall(started: event_pb2.SubcallStarted) -> str:
    """Returns what a sub-call is, on one line."""
    index = f"[{started.batch_index}]" if started.HasField("batch_index") else ""
    kind = "child RLM" if started.kind == event_pb2.NODE_KIND_RLM else "model call"
    return f"{started.function}{index} {kind} model={started.model} prompt={started.prompt_chars} characters"


def compacted(event: event_pb2.Compacted) -> str:
    """Returns what a compaction did, on one line."""
    return (
        f"{event.message_count} messages summed up: {event.tokens_before} tokens before, {event.tokens_after} after; "
        f"in full in {event.history_variable}"
    )


def tool_call(call: event_pb2.ToolCall) -> str:
    """Returns which tool is called with what, on one line."""
    return f"{call.call_id} {call.name} {one_line(call.arguments_json)}"


def tool_result(finished: event_pb2.ToolCallFinished) -> str:
    """Returns how a call of a tool went, on one line."""
    text = one_line(finished.error) if finished.error else f"{finished.result_chars} characters"
    return f"{finished.call_id} {'failed' if finished.error else 'returned'} in {seconds(finished.wall_time)}: {text}"


def file_content(part: event_pb2.FileContent) -> str:
    """Returns which file has come, or why not, on one line."""
    if part.error:
        return f"{one_line(part.path)} is not returned: {part.error}"
    return f"{one_line(part.path)}: {part.size_bytes:,} bytes"


def answered_directly(event: event_pb2.AnsweredDirectly) -> str:
    """Returns how a query was answered without a REPL, on one line."""
    return f"one plain call over about {event.context_tokens} tokens of context"


def variables(found: Variables) -> list[str]:
    """Returns the variables of a REPL, one line for each, and what else there is to tell of them."""
    lines = []
    for one in found.variables:
        size = f"[{one.size}]" if one.size >= 0 else ""
        lines.append(f"{one.name}: {one.type}{size} = {one_line(one.preview)}")
    if found.omitted_count:
        lines.append(f"and {found.omitted_count} more")
    if found.variables_lost:
        lines.append("The REPL had to be made again in another sandbox, which cost some of what the code had made.")
    if found.error:
        lines.append(f"They could not be listed: {found.error}")
    return lines


def one_line(text: str, limit: int = 100) -> str:
    """Returns a text on one line, cut to a number of characters."""
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else f"{joined[: limit - 3]}..."


def restored(event: event_pb2.SandboxRestored) -> str:
    """Returns what became of a sandbox that was lost."""
    return f"{event.cause}; {event.replayed_cell_count} blocks run again in {seconds(event.wall_time)}"


def usage(completion: Completion) -> str:
    """Returns what a completion used, on one line."""
    total = completion.usage.total
    return (
        f"{completion.finish_reason} in {completion.wall_time_seconds:.1f} s: {completion.iterations} turns, "
        f"{completion.usage.subcall_count} sub-calls, {total.call_count} model calls, {total.input_tokens} tokens in, "
        f"{total.output_tokens} out{_cost(total)}"
    )


def _cost(total: limits_pb2.TokenUsage) -> str:
    if not total.cost_microdollars:
        return ""
    unknown = f" and {total.unpriced_call_count} calls of unknown cost" if total.unpriced_call_count else ""
    return f", ${total.cost_microdollars / 1e6:.4f}{unknown}"
