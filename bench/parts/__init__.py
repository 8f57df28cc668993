"""What can be measured, by the name that it has on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.parts import (
    context,
    durability,
    fresh_run,
    host_calls,
    iteration,
    kept,
    live_session,
    load,
    many_sessions,
    pure_python,
    stopping,
    throughput,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.environment import Environment
    from bench.results import PartResult

PARTS: dict[str, Callable[[Environment], Awaitable[PartResult]]] = {
    fresh_run.NAME: fresh_run.run,
    live_session.NAME: live_session.run,
    host_calls.NAME: host_calls.run,
    context.NAME: context.run,
    iteration.NAME: iteration.run,
    durability.NAME: durability.run,
    kept.NAME: kept.run,
    load.NAME: load.run,
    throughput.NAME: throughput.run,
    stopping.NAME: stopping.run,
    many_sessions.NAME: many_sessions.run,
    pure_python.NAME: pure_python.run,
}
