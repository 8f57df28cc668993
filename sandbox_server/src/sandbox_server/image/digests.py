"""Digests over several parts, by which images and packages are told apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def digest_of(parts: Iterable[bytes]) -> str:
    """Returns the SHA-256 digest of the parts with their lengths, so that no other division of them has the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
