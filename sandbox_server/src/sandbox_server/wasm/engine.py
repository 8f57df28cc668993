"""The wasmtime engine of a process: one compiled image, from which any number of guests are made."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from wasmtime import Config, Engine
from wasmtime import _ffi as ffi
from wasmtime.component import Component, Linker

from sandbox_server.wasm.memory_creator import LinearMemories
from sandbox_server.wasm.memory_image import MemoryImage, path_for
from sandbox_server.wasm.wasi import define_imports

if TYPE_CHECKING:
    from pathlib import Path

    from wasmtime import Store
    from wasmtime.component import Func, Instance

    from sandbox_server.wasm.allowance import MemoryAllowance
    from sandbox_server.wasm.linear_memory import LinearMemory, MemorySnapshot

MAX_WASM_STACK_BYTES = 32 * 1024 * 1024
"""Stack for the guest's WebAssembly frames; deep recursion in C (the parser, `repr`) needs much of it."""

THREAD_STACK_BYTES = MAX_WASM_STACK_BYTES + 8 * 1024 * 1024
"""Stack that a thread which runs guests must have: the guest's frames and the host's own."""


ENGINE_OPTIONS = f"no-concurrency stack={MAX_WASM_STACK_BYTES}"
"""What `make_config` sets, in words: a part of the key under which compiled images are cached."""


def make_config() -> Config:
    """Returns the configuration under which images are compiled and run.

    Neither fuel nor epochs: the code of an image counts its own fuel, and is interrupted by it (`image.metering`).
    """
    config = Config()
    # Nothing here is asynchronous, and with it wasmtime 50.0 fails a call that borrows two resources, as a rename does.
    ffi.wasmtime_config_concurrency_support_set(config.ptr(), False)
    # Not used, as guests run on the stack of their thread, but wasmtime wants it to be no smaller than the other.
    ffi.wasmtime_config_async_stack_size_set(config.ptr(), MAX_WASM_STACK_BYTES)
    config.max_wasm_stack = MAX_WASM_STACK_BYTES
    return config


class GuestEngine:
    """Makes guests from a compiled image.

    Args:
        compiled_image: file that `image.cache` made, with that of its memory beside it. Both are mapped, and guests
            share their pages.
        allowance: says when guests may take more memory; None lets them have what their limits allow.

    Raises:
        wasmtime.WasmtimeError: the file is not an image for this machine and version.
        OSError: one of the files cannot be read.
    """

    def __init__(self, compiled_image: Path, allowance: MemoryAllowance | None = None) -> None:
        config = make_config()
        self._memories = LinearMemories(MemoryImage.read(path_for(compiled_image)), allowance)
        self._memories.install(config)
        self.wasmtime_engine = Engine(config)
        self._component = Component.deserialize_file(self.wasmtime_engine, str(compiled_image))
        self._linker = Linker(self.wasmtime_engine)
        self._keep_alive = define_imports(self._linker, self._component)
        self._exports = [self._component.get_export_index(name) for name in ("load", "handle")]
        # The linker may be used by one thread at a time only.
        self._linking = threading.Lock()

    def instantiate(self, store: Store, beginning: MemorySnapshot | None) -> tuple[Instance, LinearMemory]:
        """Makes an instance in a store; returns it and its memory, which goes with the store.

        Args:
            store: the store.
            beginning: what the memory begins with, if not with the image.
        """
        with self._memories.beginning_with(beginning), self._linking:
            instance = self._linker.instantiate(store, self._component)
        return instance, self._memories.last_made()

    def release_unneeded_memories(self) -> None:
        """Frees memories that are kept and were not needed since the last call. Any thread may call it."""
        self._memories.release_unneeded()

    def exports(self, store: Store, instance: Instance) -> tuple[Func, Func]:
        """Returns the functions `load` and `handle` of an instance."""
        functions = [instance.get_func(store, index) for index in self._exports if index is not None]
        load, handle = (function for function in functions if function is not None)
        return load, handle
