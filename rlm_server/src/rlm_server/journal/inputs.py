"""Variables of a conversation's REPL, as bytes in the journal."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from rlm_server.engine.ports.inputs import InputValue, StoredBytes, ValueFormat
from rlm_server.journal.records import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.journal.blobs import BlobStore


def inputs_key(node_id: str, cell_count: int, number: int) -> str:
    """Returns the key of variables that were set between two blocks.

    Args:
        node_id: the node's.
        cell_count: how many blocks had run.
        number: counts those of the node.
    """
    return f"i/{node_id}/{cell_count}/{number}"


def encode_inputs(inputs: Sequence[InputValue]) -> bytes:
    """Returns the bytes of a record of variables."""
    return pack(inputs_to_json(inputs))


def decode_inputs(data: bytes, blobs: BlobStore) -> list[InputValue]:
    """Returns what `encode_inputs` made bytes of. May block.

    Raises:
        BlobMissingError: an uploaded context is not there any more.
    """
    return inputs_from_json(unpack(data), blobs)


def inputs_to_json(inputs: Sequence[InputValue]) -> list[dict[str, Any]]:
    """Returns variables as JSON can express them; of uploaded contexts, which blob has them."""
    return [{"name": one.name, "format": one.format.value, **_value_to_json(one.value)} for one in inputs]


def inputs_from_json(values: Sequence[dict[str, Any]], blobs: BlobStore) -> list[InputValue]:
    """Returns what `inputs_to_json` was given. May block.

    Raises:
        BlobMissingError: an uploaded context is not there any more.
    """
    return [InputValue(one["name"], ValueFormat(one["format"]), _value_from_json(one, blobs)) for one in values]


def _value_to_json(value: str | bytes | StoredBytes) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return {"sha256": value.sha256, "size_bytes": value.size_bytes}


def _value_from_json(one: dict[str, Any], blobs: BlobStore) -> str | bytes | StoredBytes:
    if "text" in one:
        return str(one["text"])
    if "base64" in one:
        return base64.b64decode(one["base64"])
    return StoredBytes(blobs.local_path(one["sha256"]), one["sha256"], one["size_bytes"])
