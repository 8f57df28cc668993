"""Small parts by themselves: truncation, events, budget, settings."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlm_server.engine.budgets.budget import Budget, SubcallsExhaustedError
from rlm_server.engine.limits import CompletionLimits
from rlm_server.engine.truncation import HeadAndTail, cut_middle
from rlm_server.models.sse import EventDecoder
from rlm_server.settings import Settings, SettingsError


class FixedClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic_seconds(self) -> float:
        return self.seconds

    def time_nanoseconds(self) -> int:
        return 1_000_000_000


# --- truncation


@given(st.lists(st.text(max_size=30)), st.integers(min_value=2, max_value=60))
def test_truncation_is_exact_however_the_text_is_split(parts: list[str], limit: int) -> None:
    kept = HeadAndTail(limit)
    for part in parts:
        kept.write(part)
    text = "".join(parts)
    assert kept.total_chars == len(text)
    assert kept.hidden_chars == max(0, len(text) - limit)
    if len(text) <= limit:
        assert kept.render() == text
    else:
        head, tail = limit - limit // 2, limit // 2
        cut = f"\n... [{len(text) - limit:,} characters cut] ...\n"
        assert kept.render() == text[:head] + cut + text[len(text) - tail :]


def test_text_within_the_limit_is_not_cut() -> None:
    assert cut_middle("x" * 10, 10) == "x" * 10


# --- events


# --- budget


def test_a_batch_takes_all_its_subcalls_or_none() -> None:
    budget = Budget(CompletionLimits(max_subcalls=10), FixedClock())
    budget.reserve_subcalls(7)
    with pytest.raises(SubcallsExhaustedError):
        budget.reserve_subcalls(4)
    assert budget.subcalls_left == 3
    budget.reserve_subcalls(3)


def test_remaining_time_never_falls_below_zero() -> None:
    clock = FixedClock()
    budget = Budget(CompletionLimits(wall_time_seconds=5), clock)
    clock.seconds = 3
    assert budget.remaining_seconds() == 2
    clock.seconds = 9
    assert budget.remaining_seconds() == 0


# --- server-sent events


@given(st.lists(st.integers(min_value=1, max_value=9)))
def test_events_are_decoded_however_the_bytes_are_split(sizes: list[int]) -> None:
    data = b': hello\n\ndata: {"a": 1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\ndata: [DONE]'
    decoder = EventDecoder()
    events, position = [], 0
    for size in [*sizes, len(data)]:
        events += decoder.feed(data[position : position + size])
        position += size
    events += decoder.finish()
    assert events == [b'{"a": 1}', b"two\nlines", b"[DONE]"]


# --- settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"default_model": ""}, "default_model is empty"),
        ({"listen": ()}, "listen is empty"),
        ({"sandbox": ""}, "sandbox is empty"),
        ({"sandbox": "local", "listen": ("0.0.0.0:1",)}, "sandbox=local .* 0.0.0.0:1"),
        ({"sandbox": "local", "listen": ("127.0.0.1:1", "[::]:1")}, r"sandbox=local .* \[::\]:1"),
        ({"allowed_models": ("other",)}, "'m' is a default but not in allowed_models"),
        ({"allowed_models": ("m",), "default_sub_model": "s"}, "'s' is a default but not in allowed_models"),
        ({"max_concurrent_completions": 0}, "max_concurrent_completions must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings(**{"default_model": "m", **fields})


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix:/tmp/x.sock"])
def test_the_local_executor_is_allowed_on_loopback(listen: str) -> None:
    assert Settings(default_model="m", sandbox="local", listen=(listen,)).sandbox == "local"


def test_the_key_is_not_in_the_settings_text() -> None:
    assert "secret" not in repr(Settings(default_model="m", api_key="secret"))


# --- layers


def test_the_engine_knows_neither_grpc_nor_openai_nor_the_sandbox() -> None:
    source = "import sys, rlm_server.engine.completion; print([n for n in sys.modules if n in %r])"
    forbidden = {"grpc", "openai", "wasmtime", "httpx2", "rlm_server.service", "rlm_server.executors"}
    command = [sys.executable, "-c", source % forbidden]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
