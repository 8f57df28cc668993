"""How much memory a sandbox is asked for."""

from __future__ import annotations

_BASE_MEMORY_BYTES = 256 * 1024 * 1024
_MEMORY_PER_CONTEXT_BYTE = 4


def memory_bytes(requested: int, context_bytes: int) -> int:
    """Returns the memory to ask for.

    Args:
        requested: what the request says; 0 if it does not.
        context_bytes: size of all that the sandbox gets.
    """
    return requested or _BASE_MEMORY_BYTES + _MEMORY_PER_CONTEXT_BYTE * context_bytes
