"""With a seed, the same replies give the same events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2
from rlm_server.engine.reproducible import TextPieces

from tests.support.rlm_stack import Events, running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages, ScriptedModel

CHANCE = """
import os, random, time, uuid
print(random.random(), os.urandom(4).hex(), uuid.uuid4(), hash('x'), time.time(), time.monotonic())
print({'a', 'b', 'c', 'd'}, budget(), object())
"""
CALLS = """
import asyncio
print(llm_query_batched(['one', 'two', 'bad', 'three']))
cs = [llm_query_async(p) for p in 'xyz']
print('meanwhile')
print([await c for c in asyncio.as_completed(cs)])
print(rlm_query_batched(['p', 'q']))
for n in range(600):
    print('line', n)
"""


@pytest.fixture
async def sandboxed(model: ScriptedModel, sandbox_address: str) -> AsyncIterator[Stack]:
    async with running_stack(model, sandbox=sandbox_address) as running:
        yield running


def reply(messages: Messages, chunk_chars: int) -> Any:
    if messages[0]["role"] != "system":
        if "bad" in messages[0]["content"]:
            return ScriptedReply(status=400)
        return ScriptedReply(messages[0]["content"].upper() * 3, chunk_chars=chunk_chars)
    is_root = "What is it?" in messages[1]["content"]
    turn = len(messages) // 2
    code = {(True, 1): CHANCE, (True, 2): CALLS, (False, 1): f"{CHANCE}\nFINAL(llm_query('c'))"}.get((is_root, turn))
    text = "FINAL(done)" if code is None else f"Some words before.\n```repl\n{code}\n```"
    return ScriptedReply(text, reasoning="Hm.", chunk_chars=chunk_chars)


async def play(stack: Stack, chunk_chars: int, **fields: Any) -> list[event_pb2.Event]:
    events = await stack.play(lambda messages: reply(messages, chunk_chars), **fields)
    assert events.answer == "done"
    return events.all


def as_bytes(events: list[event_pb2.Event]) -> list[bytes]:
    for event in events:
        event.completion_id = ""
    return [event.SerializeToString(deterministic=True) for event in events]


async def test_the_events_are_the_same_byte_for_byte(sandboxed: Stack) -> None:
    first = await play(sandboxed, 7, seed=42)
    second = await play(sandboxed, 1000, seed=42)
    for one, other in zip(first, second, strict=True):
        one.completion_id = other.completion_id = ""
        assert one == other
    assert as_bytes(first) == as_bytes(second)


async def test_another_seed_gives_other_chances_and_none_gives_new_ones(sandboxed: Stack) -> None:
    outputs = [Events(await play(sandboxed, 50, **seed)).output for seed in ({"seed": 1}, {"seed": 2}, {}, {})]
    assert len({output.split()[0] for output in outputs}) == 4


async def test_children_have_chances_of_their_own(sandboxed: Stack) -> None:
    events = Events(await play(sandboxed, 50, seed=42))
    chances = [text.text.split()[0] for text in events.of("output") if text.text.startswith("0.")]
    assert len(chances) == 3
    assert len(set(chances)) == 3


async def test_events_have_no_durations_and_times_that_count_them(local_stack: Stack) -> None:
    events = Events(await play(local_stack, 50, seed=0))
    times = [event.event_time.ToMilliseconds() for event in events.all]
    assert [time - times[0] for time in times] == list(range(len(times)))
    assert not events.of("code_finished")[0].HasField("wall_time")
    assert not events.of("model_reply_finished")[0].HasField("time_to_first_token")
    assert not events.finished.HasField("wall_time")
    assert not events.finished.usage.HasField("sandbox_cpu_time")
    assert events.of("started")[0].limits.HasField("wall_time")


async def test_models_are_told_the_seed_and_nothing_of_time(local_stack: Stack) -> None:
    await play(local_stack, 50, seed=42, sampling=pb.Sampling(temperature=1))
    assert {one["seed"] for one in local_stack.model.requests} == {42}
    assert "[Turn 1 of 30. Left: 1,000 sub-calls.]" in local_stack.shown_to_root(1)
    await play(local_stack, 50)
    assert "seed" not in local_stack.model.requests[-1]


async def test_sub_calls_are_made_one_at_a_time(local_stack: Stack) -> None:
    await play(local_stack, 50, seed=42)
    assert local_stack.model.most_concurrent == 1


async def test_calls_that_are_made_again_wait_as_long_each_time(model: ScriptedModel) -> None:
    async with running_stack(model, model_max_retries=2) as stack:
        played = []
        for seed in (7, 7, 8):
            events = await stack.complete(ScriptedReply(status=503), ScriptedReply(status=500), "FINAL(x)", seed=seed)
            assert events.warnings == ["MODEL_RETRY", "MODEL_RETRY", "ANSWER_WITHOUT_CODE"]
            played.append(as_bytes(events.all))
    assert played[0] == played[1] != played[2]


async def test_a_batch_of_children_and_a_cache_go_with_a_seed(local_stack: Stack) -> None:
    code = "print(llm_query_batched(['a', 'a']), llm_query_async('a').result())"
    events = await local_stack.play(
        lambda messages: (
            "r" if messages[0]["role"] != "system" else f"```repl\n{code}\n```" if len(messages) == 2 else "FINAL(x)"
        ),
        seed=-5,
        cache_subcalls=True,
    )
    assert events.output == "['r', 'r'] r\n"
    assert [one.cached for one in events.of("subcall_finished")] == [False, True, True]


def output(text: str, stream: int = 1) -> event_pb2.OutputDelta:
    return event_pb2.OutputDelta(iteration=1, block=1, stream=stream, text=text)  # type: ignore[arg-type]


def test_pieces_depend_on_the_text_and_not_on_how_it_came() -> None:
    text = "".join(map(str, range(20_000)))

    def pieces(size: int) -> list[str]:
        taken = TextPieces()
        found = [delta for start in range(0, len(text), size) for delta in taken.take("0", output(text[start:][:size]))]
        return [delta.text for _, delta in [*found, *taken.flush()]]

    assert pieces(1_000) == pieces(99_999) == pieces(16_384)
    assert "".join(pieces(1_000)) == text
    assert max(map(len, pieces(99_999))) == 16 * 1024


def test_texts_of_other_streams_nodes_and_kinds_are_not_joined() -> None:
    taken = TextPieces()
    assert taken.take("0", output("a")) == []
    assert taken.take("0", output("b")) == []
    assert [(node, delta.text) for node, delta in taken.take("0", output("c", 2))] == [("0", "ab")]
    assert [delta.text for _, delta in taken.take("0.1", output("d", 2))] == ["c"]
    assert [delta.text for _, delta in taken.take("0.1", event_pb2.ModelTextDelta(iteration=1, text="e"))] == ["d"]
    reasoning = event_pb2.ModelTextDelta(iteration=1, text="f", reasoning=True)
    assert [delta.text for _, delta in taken.take("0.1", reasoning)] == ["e"]
    assert [delta.text for _, delta in taken.take("0", event_pb2.Warning())] == ["f"]
    assert taken.flush() == []
