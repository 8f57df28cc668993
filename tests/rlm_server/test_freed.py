"""A completion that has ended is freed at once: its context may be large, and collections of garbage are rare."""

from __future__ import annotations

import collections
import gc
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.engine.completion import Completion
from rlm_server.engine.loop import NodeLoop
from rlm_server.engine.ports.inputs import InputValue
from rlm_server.engine.repl.context_parts import ContextPart
from rlm_server.engine.subcalls.subcalls import Subcalls
from rlm_server.engine.tree import Tree
from rlm_server.executors.sandbox_session import SandboxSession
from rlm_server.journal.recorder import Recorder
from rlm_server.journal.sessions import JournaledSession
from rlm_server.service.run import Run

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.scripted_model import Messages, ScriptedModel

_OF_A_COMPLETION = (
    Completion,
    ContextPart,
    InputValue,
    JournaledSession,
    NodeLoop,
    Recorder,
    Run,
    SandboxSession,
    Subcalls,
    Tree,
)

_BATCH = "print(llm_query_batched(['a', 'bad', 'c']))"
_CHILD = "print(rlm_query('Which?', 'def'))"


@pytest.fixture
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _left() -> collections.Counter[str]:
    """Returns how many objects there are of each type that belongs to one completion."""
    return collections.Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, _OF_A_COMPLETION))


def _say(root_code: str) -> Any:
    """Returns a script: the root runs the code and answers, and everybody else answers at once."""

    def reply(messages: Messages) -> Any:
        if messages[-1]["content"] == "bad":
            return ScriptedReply(status=400)
        is_root = messages[0]["role"] == "system" and "Which?" not in messages[1]["content"]
        return f"```repl\n{root_code}\n```" if is_root and len(messages) == 2 else "FINAL(done)"

    return reply


@pytest.mark.usefixtures("without_collections")
@pytest.mark.parametrize(
    ("script", "fields", "reason"),
    [
        pytest.param(("```repl\nprint(context)\n```", "FINAL(done)"), {}, "ANSWERED", id="an-answer"),
        pytest.param(_say(_BATCH), {}, "ANSWERED", id="a-batch"),
        pytest.param(_say(_CHILD), {"limits": limits_pb2.Limits(max_depth=2)}, "ANSWERED", id="a-child"),
        pytest.param(_say("1 / 0"), {}, "ANSWERED", id="an-exception"),
        pytest.param(
            ("```repl\nprint(context)\n```",),
            {"limits": limits_pb2.Limits(max_iterations=1), "answer_at_limit": False},
            "MAX_ITERATIONS",
            id="a-limit",
        ),
        pytest.param(
            _say("while True:\n    pass"),
            {"limits": limits_pb2.Limits(wall_time=duration_pb2.Duration(nanos=200_000_000))},
            "WALL_TIME",
            id="the-time",
        ),
        pytest.param((ScriptedReply(status=400),), {}, "MODEL_ERROR", id="a-model-that-fails"),
        pytest.param(("FINAL(done)",), {"direct_answer_allowed": True}, "ANSWERED", id="a-direct-answer"),
        pytest.param(("FINAL(done)",), {"seed": 1}, "ANSWERED", id="a-seed"),
    ],
)
async def test_nothing_of_a_completion_is_left_once_it_has_ended(
    model: ScriptedModel,
    sandbox_address: str,
    script: Any,
    fields: dict[str, Any],
    reason: str,
) -> None:
    before = _left()
    async with running_stack(model, sandbox=sandbox_address) as stack:
        events = await stack.play(script, **fields)
        assert events.reason == reason
    assert _left() == before


@pytest.mark.usefixtures("without_collections")
async def test_nothing_of_a_completion_is_left_whose_client_has_gone(
    model: ScriptedModel, sandbox_address: str
) -> None:
    before = _left()
    async with running_stack(model, sandbox=sandbox_address) as stack:
        call = stack.start(("```repl\nwhile True:\n    pass\n```",))
        async for response in call:
            if response.event.WhichOneof("kind") == "code_started":
                call.cancel()
                break
    assert _left() == before


@pytest.mark.usefixtures("without_collections")
async def test_a_conversation_keeps_no_context_and_no_messages_beside_its_sandbox(
    model: ScriptedModel, sandbox_address: str
) -> None:
    before = _left()
    async with running_stack(model, sandbox=sandbox_address) as stack:
        events = await stack.complete("```repl\nx = 1\n```", "FINAL(done)", keep_conversation=True)
        conversation_id = events.all[0].started.conversation_id
        await stack.stub.ListVariables(pb.ListVariablesRequest(conversation_id=conversation_id))  # which waits for it
        assert _left() - before == {"Recorder": 1, "SandboxSession": 1}
