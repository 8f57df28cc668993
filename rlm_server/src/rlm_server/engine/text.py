"""Small helpers for text that comes from models and from code."""

from __future__ import annotations


def clean(text: str) -> str:
    """Returns the text with what UTF-8 cannot express (lone surrogates) replaced by `?`.

    Models and code can produce such text; protobuf and HTTP cannot carry it.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def preview(text: str, limit_chars: int = 400) -> str:
    """Returns the beginning of a text."""
    return text if len(text) <= limit_chars else text[:limit_chars]


def count(number: int, noun: str) -> str:
    """Returns `1 call` or `1,234 calls`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
