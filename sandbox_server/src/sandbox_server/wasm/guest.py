"""One guest: a CPython interpreter in a wasmtime store of its own, that can be ended at any moment."""

from __future__ import annotations

import enum
import itertools
import threading
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from wasmtime import Store, WasmtimeError

from sandbox_server.wasm import capi
from sandbox_server.wasm.open_files import OpenFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_server.wasm.engine import GuestEngine
    from sandbox_server.wasm.linear_memory import LinearMemory, MemorySnapshot
    from sandbox_server.wasm.scratch import Scratch
    from sandbox_server.wasm.surroundings import Surroundings

_Result = TypeVar("_Result")

UNLIMITED_FUEL = 2**63 - 1

_MAX_POLLABLES = 1000
"""How much a guest may wait for at once; its C library needs two."""


class End(enum.Enum):
    """Why a guest was ended; an ended guest can never run again."""

    DEADLINE = enum.auto()
    CANCELLED = enum.auto()
    OUT_OF_FUEL = enum.auto()
    OUT_OF_MEMORY = enum.auto()
    EXITED = enum.auto()
    TRAP = enum.auto()


class GuestEndedError(Exception):
    """The guest was ended while it ran.

    Args:
        end: why.
        message: the cause as wasmtime told it, or the limit's description.
    """

    def __init__(self, end: End, message: str) -> None:
        super().__init__(message)
        self.end = end
        self.message = message


class GuestEvents(Protocol):
    """What a guest tells its owner while it runs. Called on the thread that runs the guest; must not raise."""

    def on_output(self, output: int, text: str) -> int:
        """Takes output (1 stdout, 2 stderr); returns how many more bytes of UTF-8 are wanted."""

    def on_call_start(self, function: str, arguments: str) -> int:
        """Begins a host call; returns its id."""

    def poll_answer(self, call_ids: list[int], *, gives_up: bool) -> str | None:
        """Returns the answer to one of the calls, as the guest expects it.

        If there is none yet, returns None, or an empty answer if the guest gives up waiting.
        """

    @property
    def is_ahead(self) -> bool:
        """Whether the guest said more than is taken, and must wait until `Guest.wake`."""


_running = threading.local()


def running_guest() -> Guest:
    """Returns the guest that runs on this thread. Host functions use it to know whom they serve."""
    guest: Guest = _running.guest
    return guest


class Guest:
    """A live interpreter. Used by one thread at a time, except for `end` and `wake`, which any thread may call.

    Args:
        engine: the engine with the image.
        memory_bytes: limit of the linear memory.
        surroundings: the clocks and the random bytes that the guest sees.
        events: the owner.
        scratch: the files that the guest has.
        beginning: a snapshot of another guest of the same engine, whose state this one takes over.

    Raises:
        GuestEndedError: the interpreter did not come up, as when the memory limit is too small for it.
    """

    def __init__(
        self,
        engine: GuestEngine,
        *,
        memory_bytes: int,
        surroundings: Surroundings,
        events: GuestEvents,
        scratch: Scratch,
        beginning: MemorySnapshot | None = None,
    ) -> None:
        self.surroundings = surroundings
        self.events = events
        self.files = OpenFiles(scratch)
        scratch.is_interrupted = lambda: self._ended is not None
        self.exit_code: int | None = None
        self.is_busy = False
        """Whether it computes, and so may take more memory; not while it sleeps or waits."""
        self.pollables: dict[int, int] = {}
        """What the guest may wait for: the number of each to the reading of its clock at which it is ready."""
        self.host_call_count = 0
        """How often the guest called the host, for whatever."""
        self.wants_seed = beginning is not None
        """Whether it has the state of `random` of another guest, and must be given one of its own."""
        self._pollable_numbers = itertools.count(1)
        self._ended: GuestEndedError | None = None
        self._changed = threading.Condition()
        self._store = Store(engine.wasmtime_engine)
        self._store.set_limits(memory_size=memory_bytes)
        self._made_memory: LinearMemory | None = None
        self._instance, memory = self._enter(lambda: engine.instantiate(self._store, beginning))
        self._keep_memory(memory)
        self._load, self._handle = engine.exports(self._store, self._instance)

    def _keep_memory(self, memory: LinearMemory) -> None:
        with self._changed:
            self._made_memory = memory
            if self._ended is not None:
                memory.fuel.stop()

    def set_fuel(self, fuel: int) -> None:
        """Sets the fuel that is left."""
        self._memory.fuel.set(fuel)

    @property
    def fuel(self) -> int:
        """The fuel that is left; not negative."""
        return max(0, self.fuel_balance)

    @property
    def fuel_balance(self) -> int:
        """The fuel that is left, negative if more was used than was given. Any thread may ask, while the guest runs."""
        return self._memory.fuel.left

    def end_if_out_of_fuel(self) -> bool:
        """Ends the guest if it has used more fuel than it was given. Any thread may call it."""
        memory = self._made_memory
        if memory is None or memory.fuel.left >= 0:
            return False
        self.end(End.OUT_OF_FUEL, "all fuel was used")
        return True

    @property
    def _memory(self) -> LinearMemory:
        if self._made_memory is None:
            raise RuntimeError("the guest did not come up")
        return self._made_memory

    def memory_bytes(self) -> int:
        """Returns the size of the linear memory, which is its peak."""
        return self._memory.size

    def busy_bytes(self) -> int:
        """Returns the size of the linear memory if the guest may take more of it now, or 0. Any thread may ask."""
        memory = self._made_memory
        return memory.size if self.is_busy and memory is not None else 0

    def snapshot(self, max_bytes: int) -> MemorySnapshot | None:
        """Returns the guest's state, in which others can begin; it must not be running.

        Args:
            max_bytes: most that the snapshot may take.

        Returns:
            None if it would take more, or what it has to hold is not known. It holds the memory, and that is all as
            long as the guest has no resource of the host's: no global of the image's code changes, which the linker
            sees to (`image.linking.core_linker`).
        """
        return self._memory.snapshot(max_bytes)

    def load(self, part: str) -> None:
        """Hands the guest a part of a large text.

        Raises:
            GuestEndedError: the guest was ended.
        """
        self._enter(lambda: capi.call_string(self._store, self._load, part))

    def handle(self, request: str) -> str:
        """Has the guest handle a request and returns its answer. Host functions run meanwhile, on this thread.

        Raises:
            GuestEndedError: the guest was ended.
        """
        return self._enter(lambda: capi.call_string_to_string(self._store, self._handle, request))

    def end(self, end: End, message: str) -> None:
        """Ends the guest at once if it runs, or else before it would run again. Only the first call counts."""
        with self._changed:
            if self._ended is not None:
                return
            self._ended = GuestEndedError(end, message)
            self._changed.notify_all()
            # Within the lock: once this guest is closed, its memory is another's.
            if self._made_memory is not None:
                self._made_memory.fuel.stop()

    def wake(self) -> None:
        """Has a waiting guest look again for what it waits for."""
        with self._changed:
            self._changed.notify_all()

    @property
    def has_ended(self) -> bool:
        """Whether the guest can never run again."""
        return self._ended is not None

    def trap_message(self) -> str | None:
        """Returns None while the guest may go on."""
        return None if self._ended is None else self._ended.message

    def add_pollable(self, ready_at_monotonic_ns: int) -> int:
        """Makes something to wait for and returns its number, which fits 31 bits as the C API wants."""
        if len(self.pollables) >= _MAX_POLLABLES:
            raise capi.TrapError(f"there are {_MAX_POLLABLES} things to wait for, as many as there may be")
        number = next(self._pollable_numbers) & 0x7FFFFFFF
        self.pollables[number] = ready_at_monotonic_ns
        return number

    def sleep_until(self, monotonic_ns: int) -> None:
        """Waits, on the guest's behalf, until its monotonic clock shows the time, or the guest is ended."""
        seconds = self.surroundings.real_wait_ns(monotonic_ns) / 1e9
        if seconds > 0:
            self._wait_for(lambda: self._ended is not None, seconds)

    def wait_until_heard(self) -> None:
        """Waits, on the guest's behalf, until what it said is taken, or it is ended."""
        if self.events.is_ahead:
            self._wait_for(lambda: self._ended is not None or not self.events.is_ahead)

    def wait_for_answer(self, call_ids: list[int], timeout_ns: int | None) -> str | None:
        """Waits, on the guest's behalf, for an answer to one of the calls; None if the guest is ended.

        Args:
            call_ids: the calls.
            timeout_ns: for how long; None is for ever. When it is over, the answer is the empty string.
        """
        surroundings = self.surroundings
        until_ns = None if timeout_ns is None else surroundings.monotonic_ns() + timeout_ns
        deadline = None if timeout_ns is None else time.monotonic() + timeout_ns / 1e9
        with self._changed:
            while self._ended is None:
                seconds_left = None if deadline is None else deadline - time.monotonic()
                is_over = seconds_left is not None and seconds_left <= 0
                answer = self.events.poll_answer(call_ids, gives_up=is_over)
                if answer is not None:
                    if until_ns is not None and not answer:
                        surroundings.real_wait_ns(until_ns)  # a clock that is not real moves on
                    return answer
                self.is_busy = False
                self._changed.wait(seconds_left)
                self.is_busy = True
        return None

    def _wait_for(self, is_over: Callable[[], bool], seconds: float | None = None) -> None:
        with self._changed:
            self.is_busy = False
            self._changed.wait_for(is_over, timeout=seconds)
            self.is_busy = True

    def close(self) -> None:
        """Frees the store and its memory. The guest must not be running."""
        self.end(End.CANCELLED, "the sandbox was closed")
        self._store.close()
        self.files.close()

    def _enter(self, call: Callable[[], _Result]) -> _Result:
        if self._ended is not None:
            raise self._ended
        _running.guest = self
        self.is_busy = True
        try:
            result = call()
        except WasmtimeError as error:
            self._end_if_it_had_to_stop()  # before it is taken for something else
            raise self._classify(str(error)) from None
        finally:
            self.is_busy = False
            del _running.guest
        if self._end_if_it_had_to_stop() and self._ended is not None:
            raise self._ended
        return result

    def _end_if_it_had_to_stop(self) -> bool:
        memory = self._made_memory
        if memory is not None and memory.lacked_bytes:
            had, lacked = memory.size >> 20, memory.lacked_bytes >> 20
            message = f"the machine ran short of memory: this sandbox had {had} MiB and asked for {lacked} more"
            self.end(End.OUT_OF_MEMORY, message)
            return True
        return self.end_if_out_of_fuel()

    def _classify(self, message: str) -> GuestEndedError:
        with self._changed:
            if self._ended is None:
                cause = message.rpartition("Caused by:")[2].strip()
                self._ended = GuestEndedError(End.TRAP, cause.removeprefix("wasm trap: "))
            return self._ended
