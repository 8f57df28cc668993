"""Completions begin in the order in which they came, and none keeps the others for long."""

from __future__ import annotations

import asyncio

from rlm_server.service.starts import Start, Starts


async def taken(starts: Starts) -> Start:
    return await asyncio.wait_for(starts.take_turn(), 10)


async def test_so_many_begin_at_a_time_and_the_others_in_order() -> None:
    starts, order = Starts(at_once=2, patience_seconds=60), []

    async def begin(number: int) -> Start:
        start = await starts.take_turn()
        order.append(number)
        return start

    tasks = [asyncio.create_task(begin(number)) for number in range(4)]
    first = await tasks[0]
    await tasks[1]
    await asyncio.sleep(0)
    assert order == [0, 1]
    first.end()
    await tasks[2]
    assert order == [0, 1, 2]
    (await tasks[1]).end()
    await tasks[3]
    assert order == [0, 1, 2, 3]


async def test_a_turn_ends_by_itself() -> None:
    starts = Starts(at_once=1, patience_seconds=0.01)
    for _ in range(3):
        await taken(starts)


async def test_a_turn_is_given_back_once() -> None:
    starts = Starts(at_once=1, patience_seconds=60)
    start = await taken(starts)
    start.end()
    start.end()
    await taken(starts)
    waiting = asyncio.create_task(starts.take_turn())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_one_that_gives_up_waiting_keeps_nobody() -> None:
    starts = Starts(at_once=1, patience_seconds=60)
    start = await taken(starts)
    waiting = asyncio.create_task(starts.take_turn())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    start.end()
    await taken(starts)
