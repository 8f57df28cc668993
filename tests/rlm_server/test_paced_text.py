"""What a model says bit by bit is told in fewer events, in order and without anything being lost."""

from __future__ import annotations

import asyncio

from rlm_api.rlm.v1 import event_pb2
from rlm_server.engine.paced_text import PacedText


class Teller:
    """Keeps what is told, each as `node: text`, with an asterisk if it is reasoning."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.heard = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self.paced = PacedText(self._tell)

    async def _tell(self, node_id: str, delta: event_pb2.ModelTextDelta) -> None:
        self.heard.set()
        await self.free.wait()
        self.told.append(f"{node_id}: {delta.text}{'*' if delta.reasoning else ''}")

    async def say(self, *texts: str, node_id: str = "0", reasoning: bool = False) -> None:
        for text in texts:
            await self.paced.add(node_id, event_pb2.ModelTextDelta(iteration=1, text=text, reasoning=reasoning))


async def test_the_first_part_is_told_at_once_and_the_others_before_what_follows_them() -> None:
    teller = Teller()
    await teller.say("a", "b", "c")
    assert teller.told == ["0: a"]
    assert teller.paced.holds("0")
    await teller.paced.flush("0")
    assert teller.told == ["0: a", "0: bc"]
    assert not teller.paced.holds("0")


async def test_what_is_held_back_is_told_in_a_moment_by_itself() -> None:
    teller = Teller()
    await teller.say("a", "b")
    teller.heard.clear()
    await asyncio.wait_for(teller.heard.wait(), 10)
    await teller.say("c", "d")
    await teller.paced.flush("0")
    assert teller.told == ["0: a", "0: b", "0: cd"]


async def test_reasoning_and_nodes_are_told_apart() -> None:
    teller = Teller()
    await teller.say("a", "b", reasoning=True)
    await teller.say("x", node_id="0.1")
    await teller.say("c")
    await teller.paced.flush_all()
    assert teller.told == ["0: a*", "0.1: x", "0: b*", "0: c"]


async def test_a_long_text_is_not_held_back() -> None:
    teller = Teller()
    await teller.say("a", "b" * 20_000)
    await teller.say("c" * 20_000)
    assert teller.told == ["0: a", "0: " + "b" * 20_000, "0: " + "c" * 20_000]


async def test_text_keeps_its_order_when_the_events_are_taken_slowly() -> None:
    teller = Teller()
    await teller.say("a", "b")
    teller.heard.clear()
    teller.free.clear()
    await teller.heard.wait()  # "b" is on its way, and held up
    await teller.say("c")
    flushing = asyncio.create_task(teller.paced.flush("0"))
    await asyncio.sleep(0)
    assert teller.told == ["0: a"]
    teller.free.set()
    await flushing
    assert teller.told == ["0: a", "0: b", "0: c"]


async def test_a_cancelled_flush_loses_nothing() -> None:
    teller = Teller()
    await teller.say("a", "b")
    teller.heard.clear()
    teller.free.clear()
    await teller.heard.wait()
    await teller.say("c")
    flushing = asyncio.create_task(teller.paced.flush("0"))
    await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.wait({flushing})
    teller.free.set()
    await teller.paced.flush("0")
    assert teller.told == ["0: a", "0: b", "0: c"]


async def test_nothing_is_told_after_the_end() -> None:
    teller = Teller()
    await teller.say("a", "b")
    teller.paced.drop()
    assert not teller.paced.holds("0")
    assert teller.told == ["0: a"]
