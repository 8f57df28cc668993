"""A process that does the same work without a server, and times itself.

It reads requests from stdin, a JSON object in a line, and answers each with a line:
- `{"do": "fresh", "code": ...}`: instantiates the guest image and runs one cell in it, with the `wasmtime` package
  alone; answers `seconds`, and `close_seconds` for freeing it.
- `{"do": "cell", "code": ...}`: runs a cell in an instance that lives on; answers `seconds`.
- `{"do": "repeat", "code": ..., "for_seconds": ...}`: does `fresh` over and over; answers `count` and `seconds`.
- `{"do": "python"}`: starts the native interpreter with `-I -c pass`, and waits for its end; answers `seconds`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_server.image.cache import default_cache_directory, load_or_build_image
from sandbox_server.model import Limits, Outcome
from sandbox_server.wasm.engine import make_config
from wasmtime import Config, Engine, Store, WasiConfig
from wasmtime.component import Component, FuncType, Linker

if TYPE_CHECKING:
    from wasmtime.component import Func, Instance

_KEPT = Path(__file__).resolve().parents[2] / "build" / "bench"

_LIMITS = Limits()
"""The server's own: the same fuel is counted, the same memory allowed."""

_RUN = json.dumps(
    {
        "do": "run",
        "output_bytes": _LIMITS.output_bytes,
        "variables": {"include_all": False, "json_values": [], "preview_chars": 100, "include_inputs": False},
    }
)


class _BareGuests:
    """The image of the sandbox server with wasmtime's own WASI, linear memories, fuel and epochs."""

    def __init__(self) -> None:
        self._engine = Engine(_config())
        self._component = Component.deserialize_file(self._engine, str(_compiled_image()))
        self._linker = Linker(self._engine)
        self._linker.add_wasip2()
        with self._linker.root() as root:
            for name, extern in self._component.type.imports(self._engine).items():
                if isinstance(extern.ty, FuncType):  # of the guest's own; WASI comes as instances
                    root.add_func(name, _take_output if name == "emit" else _refuse)
        self._exports = [self._component.get_export_index(name) for name in ("load", "handle")]
        self._living: tuple[Store, Func, Func] | None = None

    def fresh(self, code: str) -> dict[str, float]:
        start = time.perf_counter()
        store, load, handle = self._make()
        answer = _run_cell(store, load, handle, code)
        end = time.perf_counter()
        store.close()
        closed = time.perf_counter()
        _check(answer)
        return {"seconds": end - start, "close_seconds": closed - end}

    def cell(self, code: str) -> dict[str, float]:
        if self._living is None:
            self._living = self._make()
        store, load, handle = self._living
        store.set_fuel(_LIMITS.fuel)
        start = time.perf_counter()
        answer = _run_cell(store, load, handle, code)
        end = time.perf_counter()
        _check(answer)
        return {"seconds": end - start}

    def repeat(self, code: str, for_seconds: float) -> dict[str, float]:
        start = time.perf_counter()
        count = 0
        while time.perf_counter() - start < for_seconds:
            self.fresh(code)
            count += 1
        return {"seconds": time.perf_counter() - start, "count": float(count)}

    def _make(self) -> tuple[Store, Func, Func]:
        store = Store(self._engine)
        store.set_limits(memory_size=_LIMITS.memory_bytes)
        store.set_fuel(_LIMITS.fuel)
        store.set_epoch_deadline(1)
        store.set_wasi(WasiConfig())
        instance = self._linker.instantiate(store, self._component)
        load, handle = (self._function(store, instance, index) for index in self._exports)
        return store, load, handle

    def _function(self, store: Store, instance: Instance, index: Any) -> Func:
        function = instance.get_func(store, index)
        if function is None:
            raise RuntimeError("the image lacks an export")
        return function


def _config() -> Config:
    config = make_config()
    config.consume_fuel = True
    config.epoch_interruption = True
    return config


def _compiled_image() -> Path:
    """Returns the server's image in one piece, as wasmtime itself needs it: compiled once, and kept."""

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    image = load_or_build_image(default_cache_directory(), tell)
    whole = _KEPT / image.path.name
    if not whole.exists():
        tell("compiling the image for bare wasmtime ...")
        whole.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=whole.parent) as directory:
            unfinished = Path(directory) / whole.name
            unfinished.write_bytes(Component.from_file(Engine(_config()), str(image.component)).serialize())
            unfinished.replace(whole)
    return whole


def _take_output(_store: Any, _output: int, _text: str) -> int:
    return _LIMITS.output_bytes


def _refuse(*_arguments: Any) -> Any:
    raise RuntimeError("no host calls are made here")


def _run_cell(store: Store, load: Func, handle: Func, code: str) -> str:
    load(store, code)
    load.post_return(store)
    answer: str = handle(store, _RUN)
    handle.post_return(store)
    return answer


def _check(answer: str) -> None:
    if json.loads(answer).get("outcome") != Outcome.OK.name:
        raise RuntimeError(f"the guest answered {answer}")


def _start_python() -> dict[str, float]:
    # That of the virtual environment has more to do at its start.
    interpreter = getattr(sys, "_base_executable", sys.executable)
    start = time.perf_counter()
    subprocess.run([interpreter, "-I", "-c", "pass"], check=True)
    return {"seconds": time.perf_counter() - start}


def _main() -> None:
    guests = _BareGuests()
    print("ready", file=sys.stderr, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        answer = _start_python() if do == "python" else getattr(guests, do)(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
