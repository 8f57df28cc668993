"""The world that a guest sees: what `guest.wit` imports, and WASI 0.2.

wasmtime's own WASI is not linked at all. A guest has clocks, entropy, output, and files of its own in memory (see
`wasi_files.py`); it has no network, environment or arguments, and no file of the host's, since nothing here gives them.
Sleeping happens here too, so a sleeping guest can be ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasmtime.component import ComponentInstanceType, FuncType, ResourceType

from sandbox_server.wasm import capi, values
from sandbox_server.wasm.guest import End, running_guest
from sandbox_server.wasm.wasi_files import file_functions, read_stream, write_stream

if TYPE_CHECKING:
    from wasmtime import StoreContext
    from wasmtime.component import Component, Linker, LinkerInstance
    from wasmtime.component._types import ComponentItem

    from sandbox_server.wasm.capi import HostCall, HostFunction

_CHUNK_BYTES = 65536
"""Most that the guest's C library may write or ask for at once."""

_MAX_EMIT_BYTES = 4 << 20
"""Most that the harness in the guest hands over at once is a quarter of a million characters."""

_MAX_NAME_BYTES = 1 << 16

_FOREVER_NS = 2**64 - 1

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def define_imports(linker: Linker, component: Component) -> list[object]:
    """Defines everything that a component imports.

    Returns:
        Objects that must be kept alive as long as the linker.
    """
    resource_types: dict[str, int] = {}
    functions = _guest_imports() | _wasi_functions(resource_types) | file_functions(resource_types)
    keep_alive: list[object] = []
    with linker.root() as root:
        for name, extern in component.type.imports(linker.engine).items():
            kind = extern.ty
            if isinstance(kind, ComponentInstanceType):
                interface = name.partition("@")[0].removeprefix("wasi:")
                items = {item: extern.ty for item, extern in kind.exports(linker.engine).items()}
                with root.add_instance(name) as instance:
                    keep_alive += _define_interface(instance, interface, items, functions, resource_types)
            else:
                keep_alive.append(capi.add_function(root, name, _counted(functions[name])))
    return keep_alive


def _define_interface(
    instance: LinkerInstance,
    interface: str,
    items: dict[str, ComponentItem],
    functions: dict[str, HostFunction],
    resource_types: dict[str, int],
) -> list[object]:
    keep_alive: list[object] = []
    for name, item in items.items():
        if isinstance(item, ResourceType):
            # Interfaces that use another's resource export it again; by its name it is the same everywhere.
            number = resource_types.setdefault(name, len(resource_types) + 1)
            drop = _drop_pollable if name == "pollable" else _drop_file
            instance.add_resource(name, ResourceType.host(number), drop)
        elif isinstance(item, FuncType):
            key = f"{interface}#{name}"
            keep_alive.append(capi.add_function(instance, name, _counted(functions.get(key) or _unavailable(key))))
    return keep_alive


def _counted(function: HostFunction) -> HostFunction:
    def counted(call: HostCall) -> str | None:
        guest = running_guest()
        guest.host_call_count += 1
        if guest.end_if_out_of_fuel():  # nobody must hear of what it does beyond its fuel
            return guest.trap_message()
        return function(call)

    return counted


def _unavailable(key: str) -> HostFunction:
    """Serves methods of sockets and terminals. There are none, so a guest has nothing to call these with."""
    return lambda _call: f"{key} is not available in a sandbox"


def _drop_pollable(_store: StoreContext, representation: int) -> None:
    running_guest().pollables.pop(representation, None)


def _drop_file(_store: StoreContext, representation: int) -> None:
    running_guest().files.drop(representation)


def _guest_imports() -> dict[str, HostFunction]:
    """Returns what `guest.wit` imports."""

    def emit(call: HostCall) -> str | None:
        guest = running_guest()
        call.return_u64(guest.events.on_output(call.integer(0), call.string(1, _MAX_EMIT_BYTES)))
        guest.wait_until_heard()
        return guest.trap_message()

    def call_start(call: HostCall) -> str | None:
        guest = running_guest()
        function, arguments = call.string(0, _MAX_NAME_BYTES), call.string(1)
        call.return_u64(guest.events.on_call_start(function, arguments))
        guest.wait_until_heard()
        return guest.trap_message()

    def call_wait(call: HostCall) -> str | None:
        guest = running_guest()
        try:
            call_ids = [int(text) for text in call.string(0).split(",")]
        except ValueError:
            return "call-wait: malformed list of calls"
        timeout_ns = call.integer(1)
        answer = guest.wait_for_answer(call_ids, None if timeout_ns == _FOREVER_NS else timeout_ns)
        if answer is not None:
            call.return_string(answer)
        return guest.trap_message()

    return {"emit": emit, "call-start": call_start, "call-wait": call_wait}


def _wasi_functions(resource_types: dict[str, int]) -> dict[str, HostFunction]:
    """Returns the functions of WASI that do something, by interface and name."""

    def pollable(call: HostCall, ready_at_monotonic_ns: int) -> None:
        call.return_value(call.own(running_guest().add_pollable(ready_at_monotonic_ns), resource_types["pollable"]))

    def stream(kind: str, number: int) -> HostFunction:
        return lambda call: call.return_value(call.own(number, resource_types[kind]))

    def write(call: HostCall) -> None:
        _write(call, resource_types["error"])

    def subscribe_duration(call: HostCall) -> None:
        pollable(call, running_guest().surroundings.monotonic_ns() + call.integer(0))

    def subscribe_now(call: HostCall) -> None:
        call.resource(0)
        pollable(call, 0)

    return {
        # As in a REPL: what builds a command line from it, as argparse, wants to find something there.
        "cli/environment#get-arguments": lambda call: call.return_value(values.value_list([values.string("")])),
        "cli/environment#get-environment": lambda call: call.return_value(values.value_list([])),
        "cli/exit#exit": _exit,
        "cli/stderr#get-stderr": stream("output-stream", _STDERR),
        "cli/stdin#get-stdin": stream("input-stream", _STDIN),
        "cli/stdout#get-stdout": stream("output-stream", _STDOUT),
        "cli/terminal-stderr#get-terminal-stderr": lambda call: call.return_value(values.none()),
        "cli/terminal-stdin#get-terminal-stdin": lambda call: call.return_value(values.none()),
        "cli/terminal-stdout#get-terminal-stdout": lambda call: call.return_value(values.none()),
        "clocks/monotonic-clock#now": lambda call: call.return_u64(running_guest().surroundings.monotonic_ns()),
        "clocks/monotonic-clock#resolution": lambda call: call.return_u64(1000),
        "clocks/monotonic-clock#subscribe-duration": subscribe_duration,
        "clocks/monotonic-clock#subscribe-instant": lambda call: pollable(call, call.integer(0)),
        "clocks/wall-clock#now": lambda call: _return_datetime(call, running_guest().surroundings.wall_ns()),
        "clocks/wall-clock#resolution": lambda call: _return_datetime(call, 1000),
        "io/poll#[method]pollable.block": lambda call: _wait([call.resource(0)]),
        "io/poll#poll": _poll,
        "io/streams#[method]input-stream.read": _read,
        "io/streams#[method]input-stream.subscribe": subscribe_now,
        "io/streams#[method]output-stream.blocking-flush": _flush,
        "io/streams#[method]output-stream.blocking-write-and-flush": write,
        "io/streams#[method]output-stream.check-write": _check_write,
        "io/streams#[method]output-stream.subscribe": subscribe_now,
        "io/streams#[method]output-stream.write": write,
        "random/random#get-random-bytes": _random_bytes,
        "sockets/instance-network#instance-network": stream("network", 0),
        "sockets/ip-name-lookup#resolve-addresses": _resolve_addresses,
        "sockets/tcp-create-socket#create-tcp-socket": _refuse_socket,
        "sockets/udp-create-socket#create-udp-socket": _refuse_socket,
    }


def _random_bytes(call: HostCall) -> str | None:
    # A guest could ask for all of the host's memory at once.
    count = call.integer(0)
    if count > _CHUNK_BYTES:
        return f"get-random-bytes: {count} bytes at once are too many"
    call.return_value(values.byte_list(running_guest().surroundings.random_bytes(count)))
    return None


def _return_datetime(call: HostCall, nanoseconds: int) -> None:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    call.return_value(values.record({"seconds": values.u64(seconds), "nanoseconds": values.u32(rest)}))


# A function must look at each resource that it is lent, even if it makes no difference: that is how the loan ends.


def _refuse_socket(call: HostCall) -> None:
    call.return_error(values.enum_case("access-denied"))


def _resolve_addresses(call: HostCall) -> None:
    call.resource(0)
    call.return_error(values.enum_case("access-denied"))


def _read(call: HostCall) -> None:
    stream = running_guest().files.stream(call.resource(0))
    if stream is None:
        call.return_error(values.variant_case("closed"))
    else:
        read_stream(call, stream)


def _flush(call: HostCall) -> None:
    call.resource(0)
    call.return_ok()


def _check_write(call: HostCall) -> None:
    call.resource(0)
    call.return_ok(values.u64(_CHUNK_BYTES))


def _write(call: HostCall, error_type: int) -> None:
    """Takes what code writes to files, and past `sys.stdout`, as with `os.write`."""
    data, number = call.byte_list(1), call.resource(0)
    stream = running_guest().files.stream(number)
    if stream is not None:
        write_stream(call, stream, data, error_type)
        return
    text = data.decode("utf-8", "backslashreplace")
    running_guest().events.on_output(_STDERR if number == _STDERR else _STDOUT, text)
    call.return_ok()


def _poll(call: HostCall) -> str | None:
    guest = running_guest()
    pollables = call.resource_list(0)
    if not pollables:
        return "poll: the list is empty"
    message = _wait(pollables)
    now = guest.surroundings.monotonic_ns()
    ready = [index for index, pollable in enumerate(pollables) if guest.pollables.get(pollable, 0) <= now]
    call.return_value(values.value_list([values.u32(index) for index in ready]))
    return message


def _wait(pollables: list[int]) -> str | None:
    guest = running_guest()
    guest.sleep_until(min(guest.pollables.get(pollable, 0) for pollable in pollables))
    return guest.trap_message()


def _exit(call: HostCall) -> str | None:
    guest = running_guest()
    guest.exit_code = 0 if call.is_ok(0) else 1
    guest.end(End.EXITED, "the code ended the interpreter")
    return guest.trap_message()
