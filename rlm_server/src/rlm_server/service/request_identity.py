"""Whether two requests are the same one, sent twice."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_server.service.refusals import request_id_reused

if TYPE_CHECKING:
    from rlm_server.journal.store import StoredCompletion


def same(stored: StoredCompletion, digest: str) -> str:
    """Returns the id of the completion that a request has begun, now or before.

    Raises:
        ServiceError: ALREADY_EXISTS, as it was another request.
    """
    if stored.request_digest != digest:
        raise request_id_reused(stored.completion_id)
    return stored.completion_id


def digest_of(request: pb.CompleteRequest) -> str:
    """Returns what two requests have in common that ask for the same."""
    asked = pb.CompleteRequest()
    asked.CopyFrom(request)
    asked.request_id = ""
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()
