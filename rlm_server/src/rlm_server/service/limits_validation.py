"""Checks the limits of a request, fills in defaults and applies the operator's caps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_server.engine.limits import LEAST_LIMITS, MAX_DURATION_SECONDS, CellBounds, CompletionLimits

if TYPE_CHECKING:
    from google.protobuf import duration_pb2
    from rlm_api.rlm.v1 import limits_pb2
    from rlm_common.errors import Violations


def resolve_limits(
    limits: limits_pb2.Limits, defaults: CompletionLimits, greatest: CompletionLimits, violations: Violations
) -> CompletionLimits:
    """Returns the limits that are in force; what is wrong goes to `violations`.

    Args:
        limits: the request's.
        defaults: used where it gives none.
        greatest: the operator's caps.
        violations: collects wrong fields.
    """
    given: dict[str, int] = {field.name: value for field, value in limits.ListFields()}
    for name, least in LEAST_LIMITS.items():
        if given.get(name, least) < least:
            violations.add(f"limits.{name}", f"is {given[name]}; must be at least {least}, or absent for the default")

    def number(name: str) -> int:
        default, cap = int(getattr(defaults, name)), int(getattr(greatest, name))
        return min(given.get(name, default), cap)

    def optional_number(name: str) -> int | None:
        candidates = (given.get(name, getattr(defaults, name)), getattr(greatest, name))
        return min((value for value in candidates if value is not None), default=None)

    wall_time_seconds = defaults.wall_time_seconds
    if limits.HasField("wall_time"):
        wall_time_seconds = read_duration(limits.wall_time, "limits.wall_time", violations, zero_allowed=False)
    return CompletionLimits(
        max_depth=number("max_depth"),
        max_iterations=number("max_iterations"),
        max_input_tokens=optional_number("max_input_tokens"),
        max_output_tokens=optional_number("max_output_tokens"),
        max_cost_microdollars=optional_number("max_cost_microdollars"),
        max_subcalls=number("max_subcalls"),
        max_concurrent_subcalls=number("max_concurrent_subcalls"),
        max_concurrent_calls_per_model=optional_number("max_concurrent_calls_per_model"),
        max_consecutive_errors=number("max_consecutive_errors"),
        max_output_chars=number("max_output_chars"),
        max_subcall_prompt_chars=number("max_subcall_prompt_chars"),
        wall_time_seconds=min(wall_time_seconds, greatest.wall_time_seconds),
        cell=_resolve_cell(limits.cell, defaults.cell, greatest.cell, violations),
    )


def _resolve_cell(
    cell: limits_pb2.CellLimits, defaults: CellBounds, greatest: CellBounds, violations: Violations
) -> CellBounds:
    numbers = {}
    for name in ("fuel", "memory_bytes", "output_bytes"):
        value: int = getattr(cell, name)
        violations.check(
            value >= 0, f"limits.cell.{name}", f"is {value}; must not be negative, and 0 or absent means the default"
        )
        cap: int = getattr(greatest, name)
        wanted = value or getattr(defaults, name)
        numbers[name] = min(wanted, cap) if wanted and cap else wanted or 0
    seconds = read_duration(cell.wall_time, "limits.cell.wall_time", violations, zero_allowed=True)
    seconds = seconds or defaults.wall_time_seconds
    if greatest.wall_time_seconds:
        seconds = min(seconds or greatest.wall_time_seconds, greatest.wall_time_seconds)
    return CellBounds(**numbers, wall_time_seconds=seconds)


def read_duration(duration: duration_pb2.Duration, path: str, violations: Violations, *, zero_allowed: bool) -> float:
    """Returns a duration in seconds; what is wrong with it goes to `violations`."""
    same_sign = duration.seconds == 0 or duration.nanos == 0 or (duration.seconds > 0) == (duration.nanos > 0)
    if not same_sign or abs(duration.nanos) >= 1_000_000_000 or abs(duration.seconds) > MAX_DURATION_SECONDS:
        violations.add(path, "is no valid duration: give seconds, and nanos below 1e9 of the same sign")
        return 1.0
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds < 0 or (seconds == 0 and not zero_allowed):
        violations.add(path, f"is {seconds:g} s; must be {'0 or more' if zero_allowed else 'more than 0'}")
    return seconds
