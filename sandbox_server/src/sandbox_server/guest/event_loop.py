"""asyncio in a sandbox: one thread, no sockets, and host calls that can be awaited."""

import asyncio
import time

import host_calls


class GuestEventLoop(asyncio.BaseEventLoop):
    """An event loop that waits for timers and host calls, as there is nothing else to wait for."""

    def __init__(self):
        super().__init__()
        self._selector = _Waiter()

    def run_in_executor(self, executor, func, *args):
        """Runs a function at once: there are no threads."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _process_events(self, events):
        """Does nothing: there are no events of files."""

    def _write_to_self(self):
        """Does nothing: no other thread could have to wake this one."""


class _Waiter:
    """What `BaseEventLoop` calls to wait."""

    def select(self, timeout):
        if host_calls.awaited:
            host_calls.receive(list(host_calls.awaited), timeout)
        elif timeout is None:
            raise RuntimeError("every task waits for something that cannot come: no timer and no host call is open")
        elif timeout > 0:
            time.sleep(timeout)
        return ()


def install():
    """Has `asyncio.run` and its kin use this loop."""
    asyncio.EventLoop = GuestEventLoop
    asyncio.unix_events.EventLoop = GuestEventLoop
    asyncio.unix_events._DefaultEventLoopPolicy._loop_factory = GuestEventLoop
