"""Many completions of two depths at once, whose model counts what it is asked and says no more than it is let."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import re
from typing import TYPE_CHECKING

from rlm_client import RlmError
from rlm_server.journal.states import State

from tests.durability.test_recovery import ALL, assert_told_once
from tests.support.rlm_stack import Events
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from rlm_api.rlm.v1 import event_pb2
    from rlm_client import AsyncClient, AsyncEventStream

    from tests.durability.cluster import Cluster, Process
    from tests.support.scripted_model import Messages

_LARGE = 'print("".join(random.choices("abcdefgh", k=200_000)))'
"""Output that is too much for a row of the journal."""

_ROOT = [
    f"```repl\nimport random\ndraw = random.random()\n{_LARGE}\nprint(len(context))\n```",
    "```repl\nparts = llm_query_batched(['one TAG', 'two TAG', 'three TAG'])\nprint(parts)\n```",
    "```repl\nchild = rlm_query('child TAG', context='inner')\nprint(child)\n```",
    "```repl\nsame = random.random() != draw\nFINAL([parts, child, same])\n```",
]
_CHILD = [
    "```repl\nx = len(context)\nprint(x)\n```",
    "```repl\ny = llm_query('leaf TAG')\n```",
    "```repl\nFINAL((x, y))\n```",
]
_ANSWER = '[["ONE TAG", "TWO TAG", "THREE TAG"], "[5, \\"LEAF TAG\\"]", true]'

_STEPS = {
    **{f"m/0/{turn + 1}": f"root {turn}" for turn in range(4)},
    "m/0.1/1": "one",
    "m/0.2/1": "two",
    "m/0.3/1": "three",
    "m/0.4.1/1": "leaf",
    **{f"m/0.4/{turn + 1}": f"child {turn}" for turn in range(3)},
}
"""What the journal calls the replies."""

assert sorted(_STEPS.values()) == sorted(ALL)


class Load:
    """What the model is asked, told apart by the tags of completions, and how many replies it may give."""

    def __init__(self) -> None:
        self.asked: collections.Counter[tuple[str, str]] = collections.Counter()
        """How often each reply was asked for, by tag and name."""
        self._waiting: collections.deque[asyncio.Event] = collections.deque()
        self._allowed: float = 0

    def let(self, count: float) -> None:
        """Lets that many more replies pass."""
        self._allowed += count
        self._pass()

    def _pass(self) -> None:
        while self._waiting and self._allowed >= 1:
            self._waiting.popleft().set()
            self._allowed -= 1

    def __call__(self, messages: Messages) -> ScriptedReply:
        tag, name, text = self._next(messages)
        self.asked[tag, name] += 1
        release = asyncio.Event()
        self._waiting.append(release)
        self._pass()
        return ScriptedReply(text.replace("TAG", tag), release=release)

    def _next(self, messages: Messages) -> tuple[str, str, str]:
        if messages[0]["role"] == "user":
            name, tag = messages[0]["content"].split()
            return tag, name, messages[0]["content"].upper().replace(tag.upper(), tag)
        turn = sum(message["role"] == "assistant" for message in messages)
        if found := re.search(r"What is it, (\w+)\?", messages[1]["content"]):
            return found[1], f"root {turn}", _ROOT[turn]
        found = re.search(r"child (\w+)", messages[1]["content"])
        assert found is not None
        return found[1], f"child {turn}", _CHILD[turn]


@dataclasses.dataclass
class Kept:
    """Replies that were in the journal when a server was killed, and how often each had been asked for by then."""

    tag: str
    asked: dict[str, int]


class Reader:
    """Reads a stream to its end while other things happen."""

    def __init__(self, stream: AsyncEventStream[None]) -> None:
        self.stream = stream
        self.events: list[event_pb2.Event] = []
        self.has_begun = asyncio.Event()
        """Is set when the first event has come, or the stream has failed before."""
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(lambda _: self.has_begun.set())

    async def _read(self) -> None:
        async for event in self.stream:
            self.events.append(event)
            self.has_begun.set()

    async def end(self, seconds: float = 60) -> Events:
        """Waits for the end, and returns all events."""
        await asyncio.wait_for(self._task, seconds)
        return Events(self.events)


class Completions:
    """Completions that run on a cluster under load, and what must be true of them whatever is killed.

    Args:
        cluster: runs them.
        load: its model's script.
    """

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._cluster = cluster
        self._load = load
        self._readers: dict[str, Reader] = {}
        self._kept: list[Kept] = []
        self._again: collections.Counter[tuple[str, str]] = collections.Counter()
        self._kills: collections.Counter[str] = collections.Counter()

    async def begin(self, client: AsyncClient, count: int, *, context_chars: int = 1_200_000) -> None:
        """Begins completions, and waits until each has told its first event.

        Args:
            client: sends contexts over 1 MiB apart, before the request, perhaps to another server.
            count: how many.
            context_chars: size of their context.
        """
        tags = [f"t{number}" for number in range(self.count, self.count + count)]
        for tag in tags:
            self._readers[tag] = Reader(await client.stream("a" * context_chars, f"What is it, {tag}?"))  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(60):
                for tag in tags:
                    await self._readers[tag].has_begun.wait()
                    if not self._readers[tag].events:
                        await self._readers[tag].end()
        except TimeoutError:
            raise AssertionError(f"{tag} has not begun: {self._cluster.describe()}") from None

    def note_what_is_kept(self) -> None:
        """Takes note of the replies that are in the journal: from now on nobody may ask for them."""
        for tag in self._readers:
            self._kept.append(Kept(tag, {name: self._load.asked[tag, name] for name in self._recorded(tag)}))

    def _recorded(self, tag: str) -> set[str]:
        """Returns the names of the replies that are in the journal."""
        rows = self._cluster.query(f"SELECT key FROM steps WHERE completion_id = '{self._id_of(tag)}'")
        return {_STEPS[str(key)] for (key,) in rows if str(key) in _STEPS}

    def _id_of(self, tag: str) -> str:
        return self._readers[tag].events[0].completion_id

    async def kill(self, server: Process) -> None:
        """Kills an RLM server, and takes note of what it had recorded, and of what was on its way to it."""
        pid = server.pid
        await server.kill()
        await asyncio.sleep(0.05)  # the model is to see what it was asked to the last
        await asyncio.to_thread(self.note_what_is_kept)
        await asyncio.to_thread(self._note_what_was_on_its_way, pid)

    def _note_what_was_on_its_way(self, pid: int) -> None:
        for tag in self._readers:
            columns = f"SELECT owner, state FROM completions WHERE completion_id = '{self._id_of(tag)}'"
            ((owner, state),) = self._cluster.query(columns)
            if int(str(owner).split("/")[1]) == pid and state == State.RUNNING:
                self._kills[tag] += 1
                recorded = self._recorded(tag)
                self._again.update((tag, name) for name in ALL if self._load.asked[tag, name] and name not in recorded)

    @property
    def count(self) -> int:
        """How many have begun."""
        return len(self._readers)

    def check_so_far(self) -> None:
        """Asserts that what was told so far has no gap, and that only what was on its way was asked for again."""
        for tag, reader in self._readers.items():
            sequences = [event.sequence for event in reader.events]
            assert sequences == list(range(1, len(sequences) + 1))
            self._check_asked(tag)

    def _check_asked(self, tag: str) -> None:
        losses = self._cluster.losses_of(self._id_of(tag), self._kills[tag])
        for name in ALL:
            asked = self._load.asked[tag, name]
            assert asked <= 1 + self._again[tag, name] + losses, (tag, name, asked, losses, self._kills, self._again)

    async def check(self, *, seconds: float = 90) -> None:
        """Waits for their ends, and asserts that nothing was lost, repeated or changed."""
        for tag, reader in self._readers.items():
            try:
                events = await reader.end(seconds)
            except (TimeoutError, RlmError) as error:
                raise AssertionError(f"{tag} has not ended ({error!r}): {self._cluster.describe()}") from error
            assert events.answer == _ANSWER.replace("TAG", tag)
            assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
            assert_told_once(events)
            assert all(self._load.asked[tag, name] for name in ALL)
            await asyncio.to_thread(self._check_asked, tag)
        for kept in self._kept:
            for name, asked in kept.asked.items():
                assert self._load.asked[kept.tag, name] == asked, (kept.tag, name, "was in the journal already")
