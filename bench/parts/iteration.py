"""One turn of the RLM server's loop, without the model and without the cell."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from bench.bare_http import BareHttpClient
from bench.completions import complete
from bench.environment import TRANSPORTS, Environment
from bench.measure import Series
from bench.results import PartResult, Row, Target

if TYPE_CHECKING:
    import grpc

    from bench.completions import TimedEvents

NAME = "iteration"

_OVERHEAD = Target(0.005, absolute=True)

_PROSE = "The output shows that the records are lines of text, each with a time, a level and a path. "
REPLIES = {
    "short reply": "```repl\nx = 1\n```",
    "long reply": _PROSE * 8 + "\n\n```repl\nlines = ['record %d of the context' % i for i in range(60)]\n"
    "print('\\n'.join(lines))\n```",
}


@dataclass
class _Turns:
    """The turns of a kind of reply, over one transport, by completion; all in seconds.

    Attributes:
        whole: from the event that begins a turn to that which begins the next, as the client gets them.
        floor: the same request to the model by a bare HTTP client, and the time of the cell.
        overhead: the difference.
        model_client: what the model's call took as the server sees it, less the bare HTTP client's.
        cell_client: what the block took as the RLM server sees it, less what it took as the sandbox sees it.
        opening: from the call to the event `started`: the sandbox is open then, and the REPL set up in it.
    """

    whole: list[list[float]] = field(default_factory=list)
    floor: list[list[float]] = field(default_factory=list)
    overhead: list[list[float]] = field(default_factory=list)
    model_client: list[float] = field(default_factory=list)
    cell_client: list[float] = field(default_factory=list)
    opening: list[float] = field(default_factory=list)

    def add(self, events: TimedEvents, exchanges: list[float]) -> None:
        """Adds a completion, and how long a bare client took for each of its requests to the model."""
        cells = [one.wall_time.ToNanoseconds() / 1e9 for one in events.of("code_finished")]
        models = [one.wall_time.ToNanoseconds() / 1e9 for one in events.of("model_reply_finished")]
        blocks = zip(events.server_times_of("code_started"), events.server_times_of("code_finished"), strict=True)
        whole = [later - earlier for earlier, later in pairwise(events.times_of("iteration_started"))]
        # The last request is for the turn that ends it all, and runs no cell.
        floor = [model + cell for model, cell in zip(exchanges[:-1], cells, strict=True)]
        self.opening.append(events.times_of("started")[0] - events.start)
        self.whole.append(whole)
        self.floor.append(floor)
        self.overhead.append([turn - least for turn, least in zip(whole, floor, strict=True)])
        self.model_client += [model - bare for model, bare in zip(models, exchanges, strict=True)]
        self.cell_client += [end - start - cell for (start, end), cell in zip(blocks, cells, strict=True)]


async def run(environment: Environment) -> PartResult:
    """Measures completions, and after each replays what the model was asked with a bare HTTP client."""
    server = await environment.rlm()
    client = BareHttpClient(await environment.model_url())
    turns = {(kind, transport): _Turns() for kind in REPLIES for transport in TRANSPORTS}
    rounds, count = (1, 3) if environment.quick else (12, 20)
    for number in range(rounds + 1):
        for (kind, transport), kept in turns.items():
            events, exchanges = await _one(server.channels[transport], client, REPLIES[kind], count)
            if number:  # the first round warms up
                kept.add(events, exchanges)
    await client.close()

    rows, notes = [], []
    for (kind, transport), kept in turns.items():
        overhead = Series(f"overhead of an iteration, {kind}", transport, rounds=kept.overhead)
        rows.append(Row(overhead, None, _OVERHEAD))
    for (kind, transport), kept in turns.items():
        whole = Series(f"whole iteration, {kind}", transport, rounds=kept.whole)
        rows.append(Row(whole, Series(f"model over bare HTTP + cell, {kind}", transport, rounds=kept.floor)))
    for transport in TRANSPORTS:
        by_kind = [kept.opening for (_, over), kept in turns.items() if over == transport]
        by_round = [list(seconds) for seconds in zip(*by_kind, strict=True)]
        rows.append(Row(Series("from the call to `started`", transport, rounds=by_round)))
    for (kind, transport), kept in turns.items():
        model, cell = statistics.median(kept.model_client), statistics.median(kept.cell_client)
        total = statistics.median([seconds for seconds_of_one in kept.overhead for seconds in seconds_of_one])
        notes.append(
            f"{kind}, {transport}: of the {total * 1e3:.2f} ms, {model * 1e3:.2f} are the call to the model (request, "
            f"reply, journal, text events), {cell * 1e3:.2f} the way to the sandbox and back, "
            f"{(total - model - cell) * 1e3:.2f} the rest of the turn."
        )
    return PartResult(NAME, "One iteration of the loop, without model and cell", rows, notes)


async def _one(
    channel: grpc.aio.Channel, client: BareHttpClient, reply: str, count: int
) -> tuple[TimedEvents, list[float]]:
    await client.get_json("/recorded")  # what is from before is of no interest
    # Each turn's code must be new: the same again and again ends a completion.
    replies = [reply.replace("```repl\n", f"```repl\nturn = {turn}\n", 1) for turn in range(count)]
    events = await complete(channel, replies, pb.ContextPart(text="some text"))
    bodies = [body.encode() for body in await client.get_json("/recorded")]
    exchanges = []
    for body in bodies:
        start = time.perf_counter()
        await client.post("/v1/chat/completions", body)
        exchanges.append(time.perf_counter() - start)
    return events, exchanges
