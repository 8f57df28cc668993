"""How much memory a sandbox is asked for."""

from __future__ import annotations

_LARGE_CONTEXT_BYTES = 32 * 1024 * 1024
_BASE_MEMORY_BYTES = 256 * 1024 * 1024
_MEMORY_PER_CONTEXT_BYTE = 4


def memory_bytes(requested: int, context_bytes: int) -> int:
    """Returns the memory to ask for; 0 takes the sandbox's default.

    Args:
        requested: what the request says; 0 if it says nothing.
        context_bytes: size of the context.
    """
    if requested or context_bytes < _LARGE_CONTEXT_BYTES:
        return requested
    return _BASE_MEMORY_BYTES + _MEMORY_PER_CONTEXT_BYTE * context_bytes
