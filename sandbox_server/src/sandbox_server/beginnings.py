"""What preludes left behind: sandboxes begin with it in place of running the same prelude again.

It is made in a guest that is told nothing of chance and time, and kept only of a prelude that asked for nothing. So it
is the same whoever runs it, and whenever.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_server import opening
from sandbox_server.events import CellEvents
from sandbox_server.guest_answers import GuestFailedError
from sandbox_server.opening import SandboxOpenError
from sandbox_server.sandbox_files import SandboxFiles
from sandbox_server.tape import Tape
from sandbox_server.wasm.clock import Entropy, FixedClock
from sandbox_server.wasm.guest import UNLIMITED_FUEL, Guest, GuestEndedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_server.model import HostFunction, SandboxSpec
    from sandbox_server.wasm.engine import GuestEngine
    from sandbox_server.wasm.linear_memory import MemorySnapshot

_MAX_BEGINNING_BYTES = 16 * 1024 * 1024
"""A prelude that leaves more behind is run each time."""

_MAX_ALL_BYTES = 64 * 1024 * 1024
_SMALLEST_BYTES = 4096
"""What is reckoned for one that says that there is none."""

_PATIENCE_SECONDS = 0.5
"""How long a sandbox waits for another that makes the same; after that it runs its prelude itself."""

_Key = tuple[str, "tuple[HostFunction, ...]"]


@dataclass(frozen=True)
class Beginning:
    """The state of a sandbox after its host functions were declared and its prelude ran.

    Attributes:
        memory: the state.
        fuel: what it took to get there.
    """

    memory: MemorySnapshot
    fuel: int


class Beginnings:
    """Those of one image; the least recently used are forgotten. Used by any thread.

    Args:
        engine: has the image.
    """

    def __init__(self, engine: GuestEngine) -> None:
        self._engine = engine
        self._known: OrderedDict[_Key, Beginning | None] = OrderedDict()
        self._making: dict[_Key, threading.Event] = {}
        self._size_bytes = 0
        self._lock = threading.Lock()

    def find(self, spec: SandboxSpec) -> Beginning | None:
        """Returns the beginning of a sandbox, if there is one."""
        return self._find(_key(spec))[1]

    def find_or_make(self, spec: SandboxSpec, on_guest: Callable[[Guest], None]) -> Beginning | None:
        """Returns the beginning of a sandbox, and makes it if it is not known whether there is one.

        Args:
            spec: what the sandbox begins with.
            on_guest: is given the guest in which it is made; its owner may end it.

        Returns:
            None if there is none: the prelude asks for something, fails, or does not fit into the limits.
        """
        key = _key(spec)
        is_known, beginning = self._find(key)
        if not is_known:
            with self._lock:
                other = self._making.get(key)
                if other is None:
                    self._making[key] = threading.Event()
            if other is not None:
                other.wait(_PATIENCE_SECONDS)
                _, beginning = self._find(key)
            else:
                beginning = self._make_known(key, spec, on_guest)
        # One that does not get that far within its limit of memory has to fail as it would.
        return beginning if beginning and beginning.memory.size <= spec.limits.memory_bytes else None

    def _find(self, key: _Key) -> tuple[bool, Beginning | None]:
        """Returns whether it is known if there is one, and the beginning."""
        with self._lock:
            if key not in self._known:
                return False, None
            self._known.move_to_end(key)
            return True, self._known[key]

    def _make_known(self, key: _Key, spec: SandboxSpec, on_guest: Callable[[Guest], None]) -> Beginning | None:
        try:
            beginning = self._make(spec, on_guest)
            self._keep(key, beginning)
        except (GuestEndedError, GuestFailedError, SandboxOpenError):
            return None  # the sandbox will come to the same end, and tell; with other limits it might go well
        finally:
            with self._lock:
                self._making.pop(key).set()
        return beginning

    def _make(self, spec: SandboxSpec, on_guest: Callable[[Guest], None]) -> Beginning | None:
        tape = Tape(FixedClock(0), Entropy(0), 0)
        guest = Guest(
            self._engine,
            memory_bytes=spec.limits.memory_bytes,
            surroundings=tape,
            events=CellEvents(None, tape),
            scratch=SandboxFiles(spec.limits.scratch_bytes, tape.wall_ns).scratch,
        )
        try:
            on_guest(guest)
            is_the_same_for_all = opening.begin(guest, spec)
            memory = guest.snapshot(_MAX_BEGINNING_BYTES) if is_the_same_for_all else None
            return None if memory is None else Beginning(memory, UNLIMITED_FUEL - guest.fuel)
        finally:
            guest.close()

    def _keep(self, key: _Key, beginning: Beginning | None) -> None:
        with self._lock:
            if key in self._known:
                return
            self._known[key] = beginning
            self._size_bytes += _size(key, beginning)
            while self._size_bytes > _MAX_ALL_BYTES:
                self._size_bytes -= _size(*self._known.popitem(last=False))


def _size(key: _Key, beginning: Beginning | None) -> int:
    prelude, functions = key
    texts = sum(sys.getsizeof(text) for one in functions for text in vars(one).values()) + sys.getsizeof(prelude)
    return _SMALLEST_BYTES + texts + (0 if beginning is None else beginning.memory.size_bytes)


def _key(spec: SandboxSpec) -> _Key:
    return spec.prelude, tuple(spec.host_functions)
