"""What a session's client has not been sent yet when a cell is over."""

from __future__ import annotations

from sandbox_server.backlog import TAKEN_STEP_CHARS
from sandbox_server.service.outbox import Outbox

OUTPUT_STDOUT = 1
LARGE = "x" * (TAKEN_STEP_CHARS * 3)


async def test_calls_that_wait_when_their_cell_is_over_are_not_sent_any_more() -> None:
    outbox = Outbox()
    taken: list[int] = []
    messages = outbox.messages(taken.append)
    outbox.on_host_call(1, "f", "{}")
    outbox.on_host_call(2, "f", LARGE)  # comes in two parts
    outbox.on_output(OUTPUT_STDOUT, "said before the next call")
    outbox.on_host_call(3, "f", LARGE)
    outbox.on_host_call(4, "f", "{}")
    sent = [(await anext(messages)).host_call for _ in range(2)]
    assert [(one.call_id, one.partial) for one in sent] == [(1, False), (2, True)]
    # The client must be told that the second is abandoned, as it knows of it.
    assert outbox.take_back_host_calls() == {3, 4}
    outbox.close()
    assert [one.output.text async for one in messages] == ["said before the next call"]
    assert sum(taken) == 2 * len(LARGE) + 2 * len("{}")  # or else cells to come would wait for the client


async def test_without_calls_that_wait_nothing_is_taken_back() -> None:
    outbox = Outbox()
    outbox.on_output(OUTPUT_STDOUT, "said")
    assert outbox.take_back_host_calls() == set()
    outbox.close()
    assert [one.output.text async for one in outbox.messages(lambda _: None)] == ["said"]
