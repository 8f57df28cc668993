"""What OpenAI's newer interface, responses, sends for a scripted reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.scripted_model import ScriptedReply


def whole(reply: ScriptedReply, model: str) -> dict[str, Any]:
    """Returns the reply as one object."""
    output: list[dict[str, Any]] = []
    if reply.reasoning:
        output.append({"type": "reasoning", "summary": [{"type": "summary_text", "text": reply.reasoning}]})
    output.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": reply.text}]})
    incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reply.stop_reason)
    return {
        "object": "response",
        "model": model,
        "status": "incomplete" if incomplete else "completed",
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "error": None,
        "output": output,
        "usage": usage(reply.usage),
    }


def usage(counts: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns the usage, given as chat completions have it."""
    if counts is None:
        return None
    return {
        "input_tokens": counts.get("prompt_tokens"),
        "output_tokens": counts.get("completion_tokens"),
        "input_tokens_details": counts.get("prompt_tokens_details"),
        "output_tokens_details": counts.get("completion_tokens_details"),
    }


def text_events(reply: ScriptedReply, size: int) -> Iterator[bytes]:
    """Yields the events before the last one."""
    yield event({"type": "response.created", "response": {"status": "in_progress", "error": None}})
    if reply.reasoning:
        yield event({"type": "response.reasoning_summary_text.delta", "delta": reply.reasoning})
    for start in range(0, len(reply.text), size):
        yield event({"type": "response.output_text.delta", "delta": reply.text[start : start + size]})


def last_event(reply: ScriptedReply, model: str) -> bytes:
    """Returns the last event, which has the whole response."""
    response = whole(reply, model)
    if reply.error_in_stream is not None:
        failed = response | {"status": "failed", "error": reply.error_in_stream}
        return event({"type": "response.failed", "response": failed})
    return event({"type": f"response.{response['status']}", "response": response})


def event(content: dict[str, Any]) -> bytes:
    """Returns a server-sent event."""
    return f"event: {content['type']}\ndata: {json.dumps(content)}\n\n".encode()
