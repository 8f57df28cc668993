"""A completion goes on after its server has stopped, on the same journal, and repeats nothing that was paid for."""

from __future__ import annotations

import asyncio
import collections
import random
from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2

from tests.durability.test_completions import watch
from tests.support.held_script import HeldScript
from tests.support.rlm_stack import Events, running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages, ScriptedModel

WAIT_SECONDS = 20

ROOT = [
    "I look.\n```repl\nimport random\ndraw = random.random()\nprint(len(context))\n```",
    "```repl\nparts = llm_query_batched(['one', 'two', 'three'])\nprint(parts)\n```",
    "```repl\nchild = rlm_query('child', context='inner')\nprint(child)\n```",
    "```repl\nsame = random.random() != draw\nFINAL([parts, child, same])\n```",
]
CHILD = [
    "```repl\nx = len(context)\nprint(x)\n```",
    "```repl\ny = llm_query('leaf')\n```",
    "```repl\nFINAL((x, y))\n```",
]
ANSWER = '[["ONE", "TWO", "THREE"], "[5, \\"LEAF\\"]", true]'


class Script(HeldScript):
    """Plays a completion of two depths, and can hold any of its replies back."""

    def __init__(self, hold: str = "") -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        self.delay_seconds = 0.0
        super().__init__(hold)

    def __call__(self, messages: Messages) -> ScriptedReply:
        name, text = self._next(messages)
        self.asked[name] += 1
        return self.reply(name, text, self._later() if self.delay_seconds else None)

    def _later(self) -> asyncio.Event:
        released = asyncio.Event()
        asyncio.get_running_loop().call_later(self.delay_seconds, released.set)
        return released

    def _next(self, messages: Messages) -> tuple[str, str]:
        if messages[0]["role"] == "user":
            return messages[0]["content"], messages[0]["content"].upper()
        turn = sum(message["role"] == "assistant" for message in messages)
        is_root = "What is it?" in messages[1]["content"]
        return (f"root {turn}", ROOT[turn]) if is_root else (f"child {turn}", CHILD[turn])


ALL = ["root 0", "root 1", "one", "two", "three", "root 2", "child 0", "child 1", "leaf", "child 2", "root 3"]


@pytest.fixture(params=["local", "sandbox"])
def sandbox(request: pytest.FixtureRequest) -> str:
    return "local" if request.param == "local" else str(request.getfixturevalue("sandbox_address"))


@pytest.mark.parametrize("stopped_at", ALL)
async def test_a_completion_goes_on_wherever_its_server_was_stopped(
    model: ScriptedModel, tmp_path: Path, sandbox: str, stopped_at: str
) -> None:
    script = Script(hold=stopped_at)
    settings: dict[str, Any] = {"data_dir": tmp_path, "sandbox": sandbox, "lease_seconds": 0.6}
    async with running_stack(model, **settings) as stack:
        call = stack.start(script, detached=True)
        first = (await call.read()).event
        await until_only_one_is_asked(stack, script, first.completion_id)
    script.hold_at("")
    async with running_stack(model, **settings) as stack:
        events = await asyncio.wait_for(watch(stack, first.completion_id), WAIT_SECONDS)
    assert events.answer == ANSWER
    assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
    assert len(events.of("resumed")) == 1
    # Nobody knows what the reply said that was on its way; everything else is asked for once.
    assert script.asked == collections.Counter(ALL) + collections.Counter([stopped_at])
    assert_told_once(events)
    usage = events.finished.usage
    assert (usage.total.call_count, usage.subcall_count, usage.iterations) == (len(ALL), 5, 7)


BATCH = {"one": "0.1", "two": "0.2", "three": "0.3"}
"""The nodes of the sub-calls that are made at once."""


async def until_only_one_is_asked(stack: Stack, script: Script, completion_id: str) -> None:
    """Waits until the reply is asked for that is held back, and those asked for together with it are recorded."""
    await script.reached.wait()
    if script.hold not in BATCH:
        return
    missing = set(BATCH.values()) - {BATCH[script.hold]}
    watching = stack.stub.WatchCompletion(pb.WatchCompletionRequest(completion_id=completion_id))
    while missing:
        event = (await watching.read()).event
        if event.HasField("subcall_finished"):
            missing.discard(event.node_id)
    watching.cancel()


def assert_told_once(events: Events) -> None:
    """Asserts that nothing but deltas was told twice, and that what was told makes a whole."""
    for kind in ("started", "finished", "subcall_started", "subcall_finished", "iteration_started"):
        places = [(event.node_id, getattr(getattr(event, kind), "iteration", 0)) for event in events.events_of(kind)]
        assert len(places) == len(set(places)), kind
    for kind in ("code_started", "code_finished"):
        blocks = [(event.node_id, getattr(event, kind).iteration) for event in events.events_of(kind)]
        assert len(blocks) == len(set(blocks)), kind
    assert sorted(e.node_id for e in events.events_of("subcall_started")) == sorted(
        e.node_id for e in events.events_of("subcall_finished")
    )


async def test_a_completion_is_stopped_again_and_again(model: ScriptedModel, tmp_path: Path) -> None:
    script = Script()
    settings: dict[str, Any] = {"data_dir": tmp_path, "lease_seconds": 0.4}
    completion_id = ""
    one_by_one = [name for name in ALL if name not in ("two", "three")]  # which are answered while `one` is held
    for name in one_by_one:
        script.hold_at(name)
        async with running_stack(model, **settings) as stack:
            if completion_id:
                model.follow(script)
            else:
                completion_id = (await stack.start(script, detached=True).read()).event.completion_id
            await until_only_one_is_asked(stack, script, completion_id)
    script.hold_at("")
    async with running_stack(model, **settings) as stack:
        events = await asyncio.wait_for(watch(stack, completion_id), WAIT_SECONDS)
    assert events.answer == ANSWER
    assert script.asked == collections.Counter(ALL + one_by_one)
    assert len(events.of("resumed")) == len(one_by_one)
    assert_told_once(events)


async def test_uploaded_contexts_and_finished_completions_survive_a_restart(
    model: ScriptedModel, tmp_path: Path
) -> None:
    data = b"some text " * 1000
    async with running_stack(model, data_dir=tmp_path) as stack:
        requests = [pb.UploadContextRequest(metadata=pb.ContextMetadata()), pb.UploadContextRequest(chunk=data)]
        uploaded = await stack.stub.UploadContext(iter(requests))
        done = await stack.complete("FINAL(kept)")
    async with running_stack(model, data_dir=tmp_path) as stack:
        part = pb.ContextPart(context_id=uploaded.context_id)
        events = await stack.complete("```repl\nFINAL(len(context))\n```", contexts=[part])
        assert events.answer == "10000"
        assert (await watch(stack, done.all[0].completion_id)).all == done.all


async def test_a_client_that_watches_keeps_a_completion_that_was_taken_over(
    model: ScriptedModel, tmp_path: Path
) -> None:
    script = Script(hold="root 1")
    settings: dict[str, Any] = {"data_dir": tmp_path, "lease_seconds": 0.4, "client_grace_seconds": 0.3}
    async with running_stack(model, **settings) as stack:
        call = stack.start(script)
        first = (await call.read()).event
        await script.reached.wait()
    script.hold_at("")
    async with running_stack(model, **settings) as stack:
        assert (await watch(stack, first.completion_id)).answer == ANSWER


@pytest.mark.parametrize("lost", ["request", "block"])
async def test_a_completion_whose_record_is_lost_ends_and_keeps_no_other_waiting(
    model: ScriptedModel, tmp_path: Path, lost: str
) -> None:
    noise = "".join(random.choices("abcdefgh", k=200_000))
    text = noise if lost == "request" else "abc"
    # What is over 64 KiB is in the blob store: the request with a context, or a block of code with its output.
    first_turn = "```repl\nimport random\nprint(''.join(random.choices('abcdefgh', k=200_000)))\n```"
    async with running_stack(model, data_dir=tmp_path, lease_seconds=0.4) as stack:
        script = [first_turn, ScriptedReply("late", release=asyncio.Event())]
        call = stack.start(script, contexts=[pb.ContextPart(text=text)], detached=True)
        broken = (await call.read()).event.completion_id
        await model.until_waiting()
        other = stack.start([ScriptedReply("late", release=asyncio.Event())], detached=True)
        whole = (await other.read()).event.completion_id
        await model.until_waiting(2)
    for path in (tmp_path / "blobs").glob("??/*"):
        path.unlink()
    async with running_stack(model, data_dir=tmp_path, lease_seconds=0.4) as stack:
        model.follow(lambda _: "FINAL(kept)")
        assert (await asyncio.wait_for(watch(stack, whole), WAIT_SECONDS)).answer == "kept"
        finished = await asyncio.wait_for(_end_of(stack, broken), WAIT_SECONDS)
        assert finished.finish_reason == event_pb2.FINISH_REASON_INTERNAL_ERROR
        assert lost != "request" or "has no blob" in finished.error


async def _end_of(stack: Stack, completion_id: str) -> event_pb2.CompletionFinished:
    """Returns how a completion ended not all of whose events can be read, once it has."""
    while True:
        request = pb.GetCompletionRequest(completion_id=completion_id)
        completion = (await stack.stub.GetCompletion(request)).completion
        if completion.HasField("finished"):
            return completion.finished
        await asyncio.sleep(0.05)
