"""A server of rlm.v1.CompletionService that plays prepared events, for tests of what calls it."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from concurrent import futures
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from grpc_status import rpc_status
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc
from rlm_api.rlm.v1 import event_pb2
from rlm_common.errors import to_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.rpc import status_pb2
    from rlm_common.errors import ServiceError

_DOMAIN = "rlm.v1"


def answered(answer: str = "42") -> list[event_pb2.Event]:
    """The events of a completion with one sub-call that ends with an answer."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("0", {"started": event_pb2.CompletionStarted(query="?", model="m", sub_model="s")}),
        ("0", {"iteration_started": event_pb2.IterationStarted(iteration=1, max_iterations=30, model="m")}),
        ("0", {"model_text_delta": event_pb2.ModelTextDelta(iteration=1, text="```repl")}),
        ("0", {"model_reply_finished": event_pb2.ModelReplyFinished(iteration=1, text="```repl", stop_reason="stop")}),
        ("0", {"code_started": event_pb2.CodeStarted(iteration=1, block=1, code="x = 1\nprint(x)")}),
        (
            "0.1",
            {
                "subcall_started": event_pb2.SubcallStarted(
                    parent_node_id="0",
                    depth=1,
                    kind=event_pb2.NODE_KIND_LLM,
                    function="llm_query_batched",
                    model="s",
                    prompt_preview="p",
                    prompt_chars=1,
                    batch_index=0,
                )
            },
        ),
        (
            "0.1",
            {
                "subcall_finished": event_pb2.SubcallFinished(
                    finish_reason=event_pb2.FINISH_REASON_ANSWERED, answer_preview="yes"
                )
            },
        ),
        ("0", {"output": _output("on")}),
        ("0", {"output": _output("e\ntwo")}),
        (
            "0",
            {"code_finished": event_pb2.CodeFinished(iteration=1, block=1, outcome=event_pb2.CODE_OUTCOME_OK)},
        ),
        ("0", {"finished": finished(answer)}),
    ]
    return [
        event_pb2.Event(completion_id="c-1", sequence=sequence, node_id=node, **kind)
        for sequence, (node, kind) in enumerate(kinds, 1)
    ]


def finished(
    answer: str,
    reason: event_pb2.FinishReason.ValueType = event_pb2.FINISH_REASON_ANSWERED,
    *,
    partial: bool = False,
    error: str = "",
    answer_json: str = "",
) -> event_pb2.CompletionFinished:
    """The last event's content."""
    return event_pb2.CompletionFinished(
        finish_reason=reason, answer=answer, answer_json=answer_json, partial=partial, error=error, iterations=1
    )


def ending_with(
    last: event_pb2.CompletionFinished, files: Sequence[event_pb2.FileContent] = ()
) -> list[event_pb2.Event]:
    """The events of a completion that ends otherwise, perhaps with parts of files before."""
    *events, end = answered()
    for part in files:
        events.append(event_pb2.Event(completion_id="c-1", sequence=len(events) + 1, node_id="0", file_content=part))
    end.finished.CopyFrom(last)
    end.sequence = len(events) + 1
    return [*events, end]


@dataclass
class FakeCompletionService(pb_grpc.CompletionServiceServicer):
    """Plays its events to every caller, and keeps what it was asked."""

    events: list[event_pb2.Event] = field(default_factory=answered)
    error: ServiceError | None = None
    hold_after: int | None = None
    """Number of events after which the stream stays open until the caller goes away."""
    requests: list[pb.CompleteRequest] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    upload_chunk_sizes: list[int] = field(default_factory=list)
    upload_metadata: list[pb.ContextMetadata] = field(default_factory=list)
    caller_is_gone: threading.Event = field(default_factory=threading.Event)
    breaks: list[grpc.StatusCode] = field(default_factory=list)
    """With what the next calls of `Complete` end at once, as calls that break do."""
    unavailable_count: int = 0
    """How many unary calls fail with UNAVAILABLE before one succeeds."""
    unary_call_count: int = 0

    def Complete(  # noqa: N802 - the contract's name
        self, request: pb.CompleteRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.CompleteResponse]:
        self.requests.append(request)
        if self.breaks:
            context.abort(self.breaks.pop(0), "")
        self._fail_if_asked(context)
        context.add_callback(self.caller_is_gone.set)
        for event in self.events[: self.hold_after]:
            yield pb.CompleteResponse(event=event)
        if self.hold_after is not None:
            self.caller_is_gone.wait()

    def UploadContext(  # noqa: N802 - the contract's name
        self, request_iterator: Iterator[pb.UploadContextRequest], context: grpc.ServicerContext
    ) -> pb.UploadContextResponse:
        first = next(request_iterator)
        assert first.WhichOneof("part") == "metadata"
        self.upload_metadata.append(first.metadata)
        chunks = [request.chunk for request in request_iterator]
        self.upload_chunk_sizes += [len(chunk) for chunk in chunks]
        data = b"".join(chunks)
        digest = hashlib.sha256(data).hexdigest()
        context_id = f"{pb.ContextFormat.Name(first.metadata.format)}-{digest}"
        self.uploads[context_id] = data
        return pb.UploadContextResponse(context_id=context_id, size_bytes=len(data), sha256=digest)

    def ListModels(  # noqa: N802 - the contract's name
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        self.unary_call_count += 1
        if self.unary_call_count <= self.unavailable_count:
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        self._fail_if_asked(context)
        return pb.ListModelsResponse(
            models=[
                pb.Model(
                    name="m",
                    context_window_tokens=400_000,
                    price=pb.ModelPrice(input=1.25, output=10),
                    fallbacks=["demo-model"],
                ),
                pb.Model(name="demo-model", stand_in=True),
            ],
            default_model="m",
            default_sub_model="m",
        )

    def ListPrompts(  # noqa: N802 - the contract's name
        self, request: pb.ListPromptsRequest, context: grpc.ServicerContext
    ) -> pb.ListPromptsResponse:
        self._fail_if_asked(context)
        return pb.ListPromptsResponse(
            prompt_sets=[
                pb.PromptSet(
                    name="v1",
                    prompts=[
                        pb.Prompt(name="task", text="$query\n$contexts", required_placeholders=["contexts", "query"]),
                        pb.Prompt(name="turn", text="[$iteration]", optional_placeholders=["iteration"]),
                    ],
                ),
                pb.PromptSet(name="mine", from_operator=True, prompts=[pb.Prompt(name="task", text="$query!")]),
            ],
            default_name="v1",
            model_notes=[pb.ModelNote(family="gpt-5", patterns=["gpt-5*", "o3*"], text="Be brief.")],
        )

    def _fail_if_asked(self, context: grpc.ServicerContext) -> None:
        if self.error is not None:
            context.abort_with_status(rpc_status.to_status(_status(self.error)))


@contextlib.contextmanager
def serving(service: FakeCompletionService) -> Iterator[str]:
    """Serves on threads of its own, and yields the address."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)]
    )
    pb_grpc.add_CompletionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        service.caller_is_gone.set()
        server.stop(None).wait()


def _output(text: str) -> event_pb2.OutputDelta:
    return event_pb2.OutputDelta(iteration=1, block=1, stream=event_pb2.OUTPUT_STREAM_STDOUT, text=text)


def _status(error: ServiceError) -> status_pb2.Status:
    return to_status(error, _DOMAIN)
