"""How completions begin, and go on here that have run before."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2
from rlm_common.errors import ServiceError

from rlm_server.journal.blobs import BlobMissingError
from rlm_server.journal.completion_rows import ContextGoneError
from rlm_server.journal.conversation_rows import ConversationBusyError, ConversationGoneError
from rlm_server.journal.store import NewCompletion, StorageUnavailableError
from rlm_server.service.persistence import with_patience
from rlm_server.service.places import Places
from rlm_server.service.refusals import conversation_busy, conversation_not_found, storage_unavailable
from rlm_server.service.request_identity import digest_of, same
from rlm_server.service.starts import Starts

if TYPE_CHECKING:
    from rlm_server.contexts import ContextStore
    from rlm_server.journal.store import Journal, StoredCompletion
    from rlm_server.service.conversations import Conversations
    from rlm_server.service.running import RunningCompletions
    from rlm_server.service.validation import RequestValidator


class Admission:
    """Lets completions run on this server, as many as it has places for.

    Args:
        max_concurrent_completions: how many places there are.
        journal: records them.
        conversations: those that they belong to.
        validator: makes of a request what the engine takes.
        contexts: what was uploaded.
        running: runs those that are let in.
    """

    def __init__(
        self,
        max_concurrent_completions: int,
        *,
        journal: Journal,
        conversations: Conversations,
        validator: RequestValidator,
        contexts: ContextStore,
        running: RunningCompletions,
    ) -> None:
        self._journal = journal
        self._conversations = conversations
        self._validator = validator
        self._contexts = contexts
        self._running = running
        self._places = Places(max_concurrent_completions)
        self._starts = Starts()

    @property
    def free_places(self) -> int:
        """How many completions may still be let in."""
        return self._places.free

    def close(self) -> None:
        """Lets in no more."""
        self._places.close()

    async def begin(self, request: pb.CompleteRequest, *, client_serves: bool = False) -> tuple[str, bool]:
        """Begins a completion, or finds the one that the same request began; returns its id, and whether it is new.

        Args:
            request: what is asked.
            client_serves: whether the client serves tools.

        Raises:
            ServiceError: the request is refused.
        """
        with contextlib.ExitStack() as resources:
            resources.enter_context(self._places.taken())
            start = await self._starts.take_turn()
            resources.callback(start.end)
            completion_id = uuid.uuid4().hex
            digest = digest_of(request)
            try:
                if request.conversation_id and request.request_id:
                    # What it began once has changed the conversation, so the request must not be judged by that.
                    known = await self._journal.with_request_id(request.request_id)
                    if known is not None:
                        return same(known, digest), False
                place = await self._conversations.join(request, completion_id, resources)
                conversation = None if place is None else place.conversation
                checked = await self._validator.check(request, completion_id, conversation, client_serves=client_serves)
            except StorageUnavailableError as error:
                raise storage_unavailable(error) from error
            resources.enter_context(self._contexts.in_use(checked.stored))
            new = NewCompletion(
                completion_id=completion_id,
                request=request.SerializeToString(),
                request_id=request.request_id or None,
                request_digest=digest,
                query=request.query,
                model=checked.spec.model,
                labels=dict(request.labels),
                detached=request.detached,
                contexts=[context.stored.sha256 for context in checked.stored],
                turn=None if place is None else place.turn,
            )
            try:
                stored, is_new = await self._journal.create(new)
            except StorageUnavailableError as error:
                raise storage_unavailable(error) from error
            except ContextGoneError as error:  # a call that is made again learns which
                raise storage_unavailable(error) from error
            except ConversationGoneError:
                raise conversation_not_found(request.conversation_id) from None
            except ConversationBusyError as error:
                raise conversation_busy(request.conversation_id, error.completion_id, error.state) from None
            if is_new:
                self._running.start(stored, checked, resources.pop_all(), conversation, cause="", start=start)
            return same(stored, digest), is_new

    async def resume(self, completion_id: str) -> bool:
        """Lets a parked completion go on here; returns whether it was parked.

        Raises:
            ServiceError: this server cannot take it.
            StorageUnavailableError: the journal cannot be written at present.
        """
        with contextlib.ExitStack() as resources:
            resources.enter_context(self._places.taken())
            stored = await self._journal.take_parked(completion_id)
            if stored is None:
                return False
            await self._go_on(stored, resources.pop_all(), "it was parked, and is resumed")
        return True

    async def cancel_parked(self, completion_id: str) -> None:
        """Cancels a completion if it is parked.

        Raises:
            StorageUnavailableError: the journal cannot be written at present.
        """
        stored = await self._journal.take_parked(completion_id)
        if stored is not None:
            reason = event_pb2.FINISH_REASON_CANCELLED
            await self._running.end_at_once(stored, reason, "it was cancelled while it was parked")

    async def take_over(self, stored: StoredCompletion) -> None:
        """Lets a completion go on here whose server is gone, and which is this server's now.

        Raises:
            ServiceError: there is no place for it.
        """
        with contextlib.ExitStack() as resources:
            resources.enter_context(self._places.taken())
            await self._go_on(stored, resources.pop_all(), "the server that ran it is gone")

    async def _go_on(self, stored: StoredCompletion, resources: contextlib.ExitStack, cause: str) -> None:
        """Runs a completion that has run before."""
        with resources:
            try:
                request = await with_patience(lambda: self._request_of(stored))
                conversation = await with_patience(lambda: self._conversations.rejoin(stored, resources))
                checked = await with_patience(
                    lambda: self._validator.check(request, stored.completion_id, conversation, client_serves=True)
                )
            except (ServiceError, BlobMissingError) as error:
                await self._running.end_at_once(stored, *_end_of(error))
                return
            resources.enter_context(self._contexts.in_use(checked.stored))
            self._running.start(stored, checked, resources.pop_all(), conversation, cause=cause)

    async def _request_of(self, stored: StoredCompletion) -> pb.CompleteRequest:
        return pb.CompleteRequest.FromString(await self._journal.request_of(stored.completion_id))


def _end_of(error: ServiceError | BlobMissingError) -> tuple[event_pb2.FinishReason.ValueType, str]:
    """Returns the reason and the message with which a completion ends that cannot go on."""
    if not isinstance(error, ServiceError):
        cause = str(error)
    elif error.reason == "CONVERSATION_NOT_FOUND":
        return event_pb2.FINISH_REASON_CANCELLED, "its conversation was closed"
    else:
        cause = error.message
    return event_pb2.FINISH_REASON_INTERNAL_ERROR, f"the completion cannot go on on this server: {cause}"
