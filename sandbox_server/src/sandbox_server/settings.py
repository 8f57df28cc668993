"""Settings of the sandbox server: flags, or environment variables that begin with `RLM_SANDBOX_`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_server.image.cache import default_cache_directory
from sandbox_server.model import MIB, Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_LISTEN = "127.0.0.1:50052"


@dataclass(frozen=True)
class Settings:
    """What a sandbox server is started with.

    Attributes:
        listen: addresses, each `HOST:PORT` or `unix:PATH`.
        default_limits: for requests that give none.
        max_limits: the greatest that a request can have.
        workers: processes that sandboxes run in; 0 means one for each processor core that the machine or
            the control group gives.
        max_sessions: sandboxes that may live at once.
        max_memory_bytes: what the memory limits of all live sandboxes together may be; 0 means four times the memory
            of the machine or the control group, as few come near their limit.
        memory_reserve_bytes: what is left free of the memory there is: with less, the cell that has the most is ended,
            and with less than twice as much, no new sandbox is taken; 0 means a twentieth of the memory, but 128 MiB to
            1 GiB.
        max_client_sessions: sandboxes of one client that may live at once; 0 means all that there may be.
        max_client_memory_bytes: what the memory limits of one client's sandboxes together may be; 0 means all.
        max_blob_cache_bytes: size of the cache of uploads.
        max_client_blob_bytes: most of the cache that one client's uploads may take; 0 means all of it.
        cache_directory: where images are kept.
        system_root: where `proc` and `sys` are, which tell how much memory is free.
        grace_seconds: how long running RPCs may take to finish when the server is asked to stop.
    """

    listen: Sequence[str] = (DEFAULT_LISTEN,)
    default_limits: Limits = field(default_factory=Limits)
    max_limits: Limits = field(
        default_factory=lambda: Limits(
            fuel=100_000_000_000_000,
            memory_bytes=4096 * MIB,
            wall_time_seconds=3600.0,
            output_bytes=64 * MIB,
            scratch_bytes=1024 * MIB,
        )
    )
    workers: int = 0
    max_sessions: int = 256
    max_memory_bytes: int = 0
    memory_reserve_bytes: int = 0
    max_client_sessions: int = 0
    max_client_memory_bytes: int = 0
    max_blob_cache_bytes: int = 2048 * MIB
    max_client_blob_bytes: int = 0
    cache_directory: Path = field(default_factory=default_cache_directory)
    system_root: Path = Path("/")
    grace_seconds: float = 10.0
