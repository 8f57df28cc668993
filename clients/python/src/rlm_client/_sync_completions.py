"""Calls about completions that a server keeps. `_async_completions.py` is its twin: keep the two alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._errors import from_rpc_error
from rlm_client._resuming import Resuming
from rlm_client._stored import CompletionState, StoredCompletion, list_request
from rlm_client._sync_stream import EventStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc

_TIMEOUT_SECONDS = 30.0


class CompletionCalls:
    """The part of `Client` that is about completions which have begun."""

    _stub: pb_grpc.CompletionServiceStub
    _resume_seconds: float

    def watch(
        self,
        completion_id: str,
        *,
        after_sequence: int = 0,
        timeout_seconds: float | None = None,
        on_resume: Callable[[str], None] | None = None,
    ) -> EventStream[None]:
        """Follows a completion, running or done.

        Args:
            completion_id: the completion's.
            after_sequence: the last event that is known already; 0 begins with the first.
            timeout_seconds: time for the call. Default: no end.
            on_resume: is told, in a sentence for people, when the stream broke and is continued.

        Returns:
            Its events. Errors are raised by the stream: `NotFoundError`, `SequenceOutOfRangeError` and others.
        """
        request = pb.WatchCompletionRequest(completion_id=completion_id, after_sequence=after_sequence)
        return EventStream(
            self._stub, (), Resuming(self._resume_seconds, on_resume), request, timeout_seconds=timeout_seconds
        )

    def get(self, completion_id: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> StoredCompletion:
        """Describes a completion, with the tree of its calls.

        Raises:
            StatusError: the call failed; `NotFoundError` if there is no such completion.
        """
        try:
            response = self._stub.GetCompletion(
                pb.GetCompletionRequest(completion_id=completion_id), timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return StoredCompletion.from_proto(response.completion)

    def completions(
        self,
        *,
        states: Sequence[CompletionState] = (),
        labels: Mapping[str, str] | None = None,
        page_size: int = 0,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> Iterator[StoredCompletion]:
        """Lists completions, the latest first; pages are fetched as they are needed.

        Args:
            states: those that are wanted. Default: all.
            labels: what they must all have. Default: nothing.
            page_size: how many are fetched at once, at most 1000; 0 is the server's choice.
            timeout_seconds: time for each page.

        Raises:
            StatusError: a call failed.
        """
        request = list_request(states, labels or {}, page_size)
        while True:
            try:
                page = self._stub.ListCompletions(request, timeout=timeout_seconds)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error
            yield from map(StoredCompletion.from_proto, page.completions)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cancel(self, completion_id: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> StoredCompletion:
        """Cancels a completion, wherever it runs; does nothing if it has ended.

        Raises:
            StatusError: the call failed.
        """
        try:
            response = self._stub.CancelCompletion(
                pb.CancelCompletionRequest(completion_id=completion_id), timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return StoredCompletion.from_proto(response.completion)

    def resume(self, completion_id: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> StoredCompletion:
        """Lets a parked completion go on; `watch` follows it.

        Raises:
            StatusError: the call failed; `WrongStateError` if it is not parked.
        """
        try:
            response = self._stub.ResumeCompletion(
                pb.ResumeCompletionRequest(completion_id=completion_id), timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return StoredCompletion.from_proto(response.completion)

    def delete(self, completion_id: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """Forgets a completion that has ended, with its events.

        Raises:
            StatusError: the call failed; `WrongStateError` if it has not ended.
        """
        try:
            self._stub.DeleteCompletion(
                pb.DeleteCompletionRequest(completion_id=completion_id), timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
