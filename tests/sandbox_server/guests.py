"""A guest without a server, in a world that the test makes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sandbox_server.wasm.guest import Guest
from sandbox_server.wasm.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_server.wasm.engine import GuestEngine

MIB = 1 << 20
NO_VARIABLES = {"include_all": False, "json_values": [], "preview_chars": 100, "include_inputs": False}


class Surroundings:
    """Clocks that stand still and entropy that counts."""

    def monotonic_ns(self) -> int:
        return 5_000_000_000

    def wall_ns(self) -> int:
        return 1_700_000_000_123_456_789

    def real_wait_ns(self, until_monotonic_ns: int) -> int:
        return 0

    def random_bytes(self, count: int) -> bytes:
        return bytes(index % 256 for index in range(count))


class Events:
    """Keeps what the guest says, and answers host calls with their arguments."""

    is_ahead = False

    def __init__(self) -> None:
        self.output: list[tuple[int, str]] = []
        self.calls: list[tuple[str, str]] = []
        self.on_call: Callable[[], None] = lambda: None

    def on_output(self, output: int, text: str) -> int:
        self.output.append((output, text))
        return 2**40

    def on_call_start(self, function: str, arguments: str) -> int:
        self.on_call()
        self.calls.append((function, arguments))
        return len(self.calls)

    def poll_answer(self, call_ids: list[int], *, gives_up: bool) -> str | None:
        value = json.loads(self.calls[call_ids[0] - 1][1])["args"]
        return json.dumps({"id": call_ids[0], "value": value}, ensure_ascii=False)

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.output)


class Harness:
    """A guest with one host function `f`, which returns its arguments."""

    def __init__(self, engine: GuestEngine, memory_bytes: int = 512 * MIB, events: Events | None = None) -> None:
        self.events = events or Events()
        self.scratch = Scratch(16 * MIB, Surroundings().wall_ns)
        self.guest = Guest(
            engine,
            memory_bytes=memory_bytes,
            surroundings=Surroundings(),
            events=self.events,
            scratch=self.scratch,
        )
        self.guest.handle(json.dumps({"do": "declare", "functions": [{"name": "f", "doc": "", "schema": ""}]}))

    def run(self, code: str) -> dict[str, Any]:
        self.guest.load(code)
        request = {"do": "run", "output_bytes": 2**40, "variables": NO_VARIABLES}
        result: dict[str, Any] = json.loads(self.guest.handle(json.dumps(request)))
        return result

    def printed(self, code: str) -> str:
        self.events.output.clear()
        result = self.run(code)
        assert result["outcome"] == "OK", result
        return self.events.text
