"""How a reply goes over the wire: in OpenAI's chat completions, or in its newer responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rlm_server.demo_model.protocol import server_sent_event

if TYPE_CHECKING:
    from rlm_server.demo_model.protocol import Reply

_INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Wire(Protocol):
    """Writes replies."""

    def body(self, reply: Reply) -> dict[str, Any]:
        """Returns the answer to a request that does not stream."""

    def beginning(self, reply: Reply) -> str:
        """Returns the first event of a stream."""

    def part(self, reply: Reply, text: str) -> str:
        """Returns an event with the next part of the text."""

    def end(self, reply: Reply, *, include_usage: bool) -> str:
        """Returns the last events of a stream."""


class ChatCompletions:
    """Chat completions, as a `Wire`."""

    def body(self, reply: Reply) -> dict[str, Any]:
        """Returns the answer to a request that does not stream."""
        return reply.body()

    def beginning(self, reply: Reply) -> str:
        """Returns the first event of a stream."""
        return reply.chunk({"role": "assistant", "content": ""})

    def part(self, reply: Reply, text: str) -> str:
        """Returns an event with the next part of the text."""
        return reply.chunk({"content": text})

    def end(self, reply: Reply, *, include_usage: bool) -> str:
        """Returns the last events of a stream."""
        usage = reply.usage_chunk() if include_usage else ""
        return f"{reply.chunk({}, reply.stop_reason)}{usage}data: [DONE]\n\n"


class Responses:
    """Responses, as a `Wire`. They always have the usage."""

    def body(self, reply: Reply) -> dict[str, Any]:
        """Returns the answer to a request that does not stream."""
        reason = _INCOMPLETE_REASONS.get(reply.stop_reason)
        usage = reply.usage
        return {
            "id": reply.completion_id,
            "object": "response",
            "created_at": reply.created,
            "model": reply.model,
            "status": "incomplete" if reason else "completed",
            "incomplete_details": {"reason": reason} if reason else None,
            "error": None,
            "output": [
                {
                    "id": f"msg-{reply.completion_id}",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": reply.text, "annotations": []}],
                }
            ],
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }

    def beginning(self, reply: Reply) -> str:
        """Returns the first event of a stream."""
        response = self.body(reply) | {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
        return server_sent_event({"type": "response.created", "sequence_number": 0, "response": response})

    def part(self, reply: Reply, text: str) -> str:
        """Returns an event with the next part of the text."""
        place = {"item_id": f"msg-{reply.completion_id}", "output_index": 0, "content_index": 0}
        event = {"type": "response.output_text.delta", "sequence_number": 0, "delta": text, "logprobs": []}
        return server_sent_event(event | place)

    def end(self, reply: Reply, *, include_usage: bool) -> str:  # noqa: ARG002 - it is always there
        """Returns the last event of a stream."""
        response = self.body(reply)
        event = {"type": f"response.{response['status']}", "sequence_number": 0, "response": response}
        return server_sent_event(event)
