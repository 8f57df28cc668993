"""The RPCs about completions and conversations that are stored: watch, get, list, cancel, resume, delete, close."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, TypeVar

from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc
from rlm_common.errors import Violations, invalid_field

from rlm_server.journal.recorded_events import KIND_NUMBERS
from rlm_server.journal.states import State
from rlm_server.journal.store import StorageUnavailableError
from rlm_server.service.feeds import CompletionGoneError
from rlm_server.service.page_tokens import from_token, to_token
from rlm_server.service.refusals import (
    completion_not_found,
    sequence_out_of_range,
    storage_unavailable,
    wrong_state,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rlm_server.journal.store import Journal, StoredCompletion
    from rlm_server.service.admission import Admission
    from rlm_server.service.conversations import Conversations
    from rlm_server.service.rpc import Context
    from rlm_server.service.running import RunningCompletions

_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1000
_MAX_LABELS = 20
_PAGE = 2000
_CANCEL_SECONDS = 10.0
_POLL_SECONDS = 0.1
_NODE_KINDS = {KIND_NUMBERS["subcall_started"], KIND_NUMBERS["subcall_finished"]}

_Call = TypeVar("_Call", bound="Callable[..., Awaitable[Any]]")


def _maps_errors(call: _Call) -> _Call:
    """Makes the errors of the journal statuses."""

    @functools.wraps(call)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return await call(*args, **kwargs)
        except StorageUnavailableError as error:
            raise storage_unavailable(error) from error

    return wrapper  # type: ignore[return-value]


class DurableRpcs(pb_grpc.CompletionServiceServicer):
    """Serves what the journal has.

    Args:
        journal: has it.
        running: the completions that run on this server.
        admission: lets them.
        conversations: those that completions belong to.
    """

    def __init__(
        self, journal: Journal, running: RunningCompletions, admission: Admission, conversations: Conversations
    ) -> None:
        self._journal = journal
        self._running = running
        self._admission = admission
        self._conversations = conversations

    async def WatchCompletion(
        self, request: pb.WatchCompletionRequest, context: Context
    ) -> AsyncIterator[pb.WatchCompletionResponse]:
        """Streams the events of a completion, running or done."""
        try:
            stored = await self._find_after(request.completion_id, request.after_sequence)
            async for event in self._running.feeds.events(stored.completion_id, request.after_sequence):
                yield pb.WatchCompletionResponse(event=event)
        except CompletionGoneError:
            raise completion_not_found(request.completion_id) from None
        except StorageUnavailableError as error:
            raise storage_unavailable(error) from error

    @_maps_errors
    async def GetCompletion(self, request: pb.GetCompletionRequest, context: Context) -> pb.GetCompletionResponse:
        """Describes a completion."""
        stored = await self._find(request.completion_id)
        completion = await self._describe(stored)
        nodes: dict[str, pb.CompletionNode] = {"0": pb.CompletionNode(node_id="0")}
        sequence = 0
        while page := await self._journal.events(stored.completion_id, sequence, limit=_PAGE, kinds=_NODE_KINDS):
            for event in page:
                node = nodes.setdefault(event.node_id, pb.CompletionNode(node_id=event.node_id))
                if event.HasField("subcall_started"):
                    node.parent_node_id = event.subcall_started.parent_node_id
                    node.started.CopyFrom(event.subcall_started)
                else:
                    node.finished.CopyFrom(event.subcall_finished)
            sequence = page[-1].sequence
        completion.nodes.extend(nodes.values())
        return pb.GetCompletionResponse(completion=completion)

    @_maps_errors
    async def ListCompletions(self, request: pb.ListCompletionsRequest, context: Context) -> pb.ListCompletionsResponse:
        """Lists completions, latest first."""
        size, before, states = _check_list(request)
        found = await self._journal.list(limit=size + 1, before=before, states=states, with_labels=dict(request.labels))
        page = found[:size]
        return pb.ListCompletionsResponse(
            completions=[await self._describe(stored) for stored in page],
            next_page_token=to_token(page[-1].create_time, page[-1].completion_id) if len(found) > size else "",
        )

    @_maps_errors
    async def CancelCompletion(
        self, request: pb.CancelCompletionRequest, context: Context
    ) -> pb.CancelCompletionResponse:
        """Cancels a completion, wherever it runs."""
        stored = await self._find(request.completion_id)
        if not stored.state.has_ended:
            await self._cancel(stored.completion_id, "it was cancelled")
        return pb.CancelCompletionResponse(completion=await self._describe(await self._find(stored.completion_id)))

    @_maps_errors
    async def ResumeCompletion(
        self, request: pb.ResumeCompletionRequest, context: Context
    ) -> pb.ResumeCompletionResponse:
        """Lets a parked completion go on."""
        stored = await self._find(request.completion_id)
        if stored.state is not State.PARKED or not await self._admission.resume(stored.completion_id):
            raise wrong_state(_name(stored.state), "only a parked one can be resumed")
        return pb.ResumeCompletionResponse(completion=await self._describe(await self._find(stored.completion_id)))

    @_maps_errors
    async def DeleteCompletion(
        self, request: pb.DeleteCompletionRequest, context: Context
    ) -> pb.DeleteCompletionResponse:
        """Forgets a completion that has ended."""
        stored = await self._find(request.completion_id)
        if not stored.state.has_ended:
            raise wrong_state(_name(stored.state), "cancel it before you delete it")
        if stored.conversation_id and await self._conversations.is_kept(stored.conversation_id):
            raise wrong_state("kept by its conversation", f"close conversation {stored.conversation_id} before")
        await self._journal.delete(stored.completion_id)
        return pb.DeleteCompletionResponse()

    @_maps_errors
    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Context
    ) -> pb.ListConversationsResponse:
        """Lists the conversations that are kept."""
        return await self._conversations.page(request)

    @_maps_errors
    async def ListVariables(self, request: pb.ListVariablesRequest, context: Context) -> pb.ListVariablesResponse:
        """Describes the variables of a conversation."""
        return await self._conversations.variables(request.conversation_id)

    @_maps_errors
    async def CloseConversation(
        self, request: pb.CloseConversationRequest, context: Context
    ) -> pb.CloseConversationResponse:
        """Ends a conversation."""
        unended_id = await self._conversations.forget(request.conversation_id)
        if unended_id:
            await self._cancel(unended_id, "its conversation was closed")
        await self._conversations.free(request.conversation_id)
        return pb.CloseConversationResponse()

    async def _find_after(self, completion_id: str, after_sequence: int, path: str = "") -> StoredCompletion:
        """Returns a completion whose events are asked for after one; `path` leads to the two fields."""
        stored = await self._find(completion_id, path)
        if after_sequence < 0:
            raise invalid_field(f"{path}after_sequence", f"is {after_sequence}; must be at least 0")
        if after_sequence > stored.last_sequence:
            raise sequence_out_of_range(after_sequence, stored.last_sequence)
        return stored

    async def _find(self, completion_id: str, path: str = "") -> StoredCompletion:
        if not completion_id:
            raise invalid_field(f"{path}completion_id", "is empty; give the id that the completion's events carry")
        stored = await self._journal.get(completion_id) if len(completion_id) <= 64 else None
        if stored is None:
            raise completion_not_found(completion_id)
        return stored

    async def _cancel(self, completion_id: str, cause: str) -> None:
        """Cancels a completion, wherever it runs, and waits for its end."""
        ending = self._running.cancel(completion_id, cause)
        if ending is not None:
            await asyncio.wait({ending})
            return
        await self._journal.request_cancel(completion_id)
        await self._admission.cancel_parked(completion_id)
        deadline = asyncio.get_running_loop().time() + _CANCEL_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            stored = await self._journal.get(completion_id)
            if stored is None or stored.state.has_ended:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _describe(self, stored: StoredCompletion) -> pb.Completion:
        completion = pb.Completion(
            completion_id=stored.completion_id,
            state=pb.CompletionState.ValueType(stored.state),
            query=stored.query,
            model=stored.model,
            last_sequence=stored.last_sequence,
            labels=stored.labels,
            parked_reason=stored.parked_reason,
            conversation_id=stored.conversation_id,
        )
        completion.create_time.FromNanoseconds(stored.create_time)
        if stored.end_time is not None:
            completion.end_time.FromNanoseconds(stored.end_time)
        if stored.state.has_ended:
            finished = await self._journal.latest_event(stored.completion_id, KIND_NUMBERS["finished"])
            if finished is not None:
                completion.finished.CopyFrom(finished.finished)
                completion.usage.CopyFrom(finished.finished.usage)
        else:
            usage = await self._journal.latest_event(stored.completion_id, KIND_NUMBERS["usage_updated"])
            if usage is not None:
                completion.usage.CopyFrom(usage.usage_updated.usage)
        return completion


def _check_list(request: pb.ListCompletionsRequest) -> tuple[int, tuple[int, str] | None, list[State]]:
    violations = Violations()
    violations.check(
        0 <= request.page_size <= _MAX_PAGE_SIZE,
        "page_size",
        f"is {request.page_size}; must be from 1 to {_MAX_PAGE_SIZE}, or 0 for {_DEFAULT_PAGE_SIZE}",
    )
    states = []
    for index, state in enumerate(request.states):
        try:
            states.append(State(state))
        except ValueError:
            violations.add(f"states[{index}]", f"is {state}, which is no state that a completion can have")
    violations.check(
        len(request.labels) <= _MAX_LABELS, "labels", f"has {len(request.labels)} entries; at most {_MAX_LABELS}"
    )
    before = None
    if request.page_token:
        before = from_token(request.page_token)
        violations.check(before is not None, "page_token", "is none that ListCompletions gave; leave it out to begin")
    violations.raise_if_any()
    return request.page_size or _DEFAULT_PAGE_SIZE, before, states


def _name(state: State) -> str:
    return state.name
