"""How channels to servers are made."""

from __future__ import annotations

import json
from typing import Any

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message that is sent or taken; servers take no larger ones."""

_SERVICE = "rlm.v1.CompletionService"

# Calls that change nothing, or that may be made twice without harm. Streams are not retried: what they had sent before
# they broke would be repeated.
_RETRIED = (
    "GetCompletion",
    "ListCompletions",
    "CancelCompletion",
    "ListModels",
    "ListPrompts",
    "ListConversations",
    "ListVariables",
    "CloseConversation",
)

SERVICE_CONFIG: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": _SERVICE, "method": method} for method in _RETRIED],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
"""The gRPC service config: calls are spread over all addresses of the target; unary calls are tried again when a server
is not available."""

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
)
"""Channel options of both clients."""
