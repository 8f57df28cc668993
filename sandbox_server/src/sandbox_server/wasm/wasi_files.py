"""The file system of WASI 0.2, served from the `Scratch` of the guest that calls.

A guest is given one directory, the root of its own tree; there is no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_server.wasm import values
from sandbox_server.wasm.guest import running_guest
from sandbox_server.wasm.open_files import Descriptor, FileStream, Listing
from sandbox_server.wasm.scratch_nodes import Directory, File, FileError, Null

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_server.wasm.capi import HostCall, HostFunction
    from sandbox_server.wasm.open_files import OpenFiles
    from sandbox_server.wasm.scratch import Scratch

_MAX_READ_BYTES = 1 << 16
"""Most that one call reads; the guest's C library asks again for the rest."""

_ERROR = 0
"""The number of every `error`: there is one only."""


def file_functions(resource_types: dict[str, int]) -> dict[str, HostFunction]:
    """Returns the functions of `wasi:filesystem`, by interface and name.

    Args:
        resource_types: the numbers of the types of resources.
    """

    def own(call: HostCall, kind: str, item: Descriptor | FileStream | Listing) -> values.Put:
        return call.own(_files().add(item), resource_types[kind])

    def get_directories(call: HostCall) -> None:
        root = own(call, "descriptor", Descriptor(_scratch().root, reads=True, writes=True))
        call.return_value(values.value_list([values.tuple_of([root, values.string("/")])]))

    def open_at(call: HostCall) -> values.Put:
        return own(call, "descriptor", _open_at(call))

    def read_directory(call: HostCall) -> values.Put:
        return own(call, "directory-entry-stream", Listing(_directory(call)))

    def stream(call: HostCall, kind: str, position: int | None) -> values.Put:
        number = call.resource(0)
        file = _files().file(number, writes=kind == "output-stream")
        descriptor = _files().descriptor(number)
        if position is not None:
            descriptor.position = position
        return own(call, kind, FileStream(descriptor, file, appends=position is None))

    methods: dict[str, Callable[[HostCall], values.Put | None]] = {
        "advise": _do_nothing,
        "append-via-stream": lambda call: stream(call, "output-stream", None),
        "create-directory-at": _create_directory_at,
        "get-flags": _get_flags,
        "link-at": _link_at,
        "metadata-hash": lambda call: _hash(_node(call)),
        "metadata-hash-at": lambda call: _hash(_node_at(call, 2)),
        "open-at": open_at,
        "read": _read,
        "read-directory": read_directory,
        "read-via-stream": lambda call: stream(call, "input-stream", call.integer(1)),
        "readlink-at": _readlink_at,
        "remove-directory-at": _remove_directory_at,
        "rename-at": _rename_at,
        "set-size": _set_size,
        "set-times": lambda call: _set_times(_node(call), call, 1),
        "set-times-at": lambda call: _set_times(_node_at(call, 2), call, 3),
        "stat": lambda call: _stat(_node(call)),
        "stat-at": lambda call: _stat(_node_at(call, 2)),
        "symlink-at": _refuse_link,
        "sync": _do_nothing,
        "sync-data": _do_nothing,
        "unlink-file-at": _unlink_file_at,
        "write": _write,
        "write-via-stream": lambda call: stream(call, "output-stream", call.integer(1)),
    }
    entries = "filesystem/types#[method]directory-entry-stream.read-directory-entry"
    return {
        "filesystem/preopens#get-directories": get_directories,
        entries: _fallible(_read_directory_entry),
        **{f"filesystem/types#[method]descriptor.{name}": _fallible(serve) for name, serve in methods.items()},
    }


def read_stream(call: HostCall, stream: FileStream) -> None:
    """Serves `input-stream.read` of a file."""
    count, descriptor = min(call.integer(1), _MAX_READ_BYTES), stream.descriptor
    data = _scratch().read(stream.file, descriptor.position, count)
    descriptor.position += len(data)
    if data or not count:
        call.return_ok(values.byte_list(data))
    else:
        call.return_error(values.variant_case("closed"))


def write_stream(call: HostCall, stream: FileStream, data: bytes, error_type: int) -> None:
    """Serves `output-stream.write` to a file. The only thing that can go wrong is that there is no room."""
    descriptor = stream.descriptor
    if stream.appends:
        descriptor.position = len(stream.file.data)
    try:
        _scratch().write(stream.file, descriptor.position, data)
    except FileError:
        # See `image/libc_patch.py` for how this becomes ENOSPC.
        call.return_error(values.variant_case("last-operation-failed", call.own(_ERROR, error_type)))
        return
    descriptor.position += len(data)
    call.return_ok()


def _fallible(serve: Callable[[HostCall], values.Put | None]) -> HostFunction:
    """Returns what serves a function whose result is an `error-code` where it fails."""

    def served(call: HostCall) -> None:
        try:
            put = serve(call)
        except FileError as error:
            call.return_error(values.enum_case(error.code))
        else:
            call.return_ok(put)

    return served


def _files() -> OpenFiles:
    return running_guest().files


def _scratch() -> Scratch:
    return running_guest().files.scratch


def _node(call: HostCall) -> File | Directory:
    return _files().descriptor(call.resource(0)).node


def _directory(call: HostCall, index: int = 0) -> Directory:
    return _files().directory(call.resource(index))


def _node_at(call: HostCall, path_index: int) -> File | Directory:
    return _scratch().find(_directory(call), call.string(path_index))


def _open_at(call: HostCall) -> Descriptor:
    open_flags, flags = call.flags(3), call.flags(4)
    node = _scratch().open(
        _directory(call),
        call.string(2),
        create="create" in open_flags,
        exclusive="exclusive" in open_flags,
        truncate="truncate" in open_flags,
    )
    if "directory" in open_flags and not isinstance(node, Directory):
        raise FileError("not-directory")
    if "write" in flags and isinstance(node, Directory):
        raise FileError("is-directory")
    return Descriptor(node, reads="read" in flags, writes="write" in flags)


def _read(call: HostCall) -> values.Put:
    count, offset = min(call.integer(1), _MAX_READ_BYTES), call.integer(2)
    file = _files().file(call.resource(0), writes=False)
    data = _scratch().read(file, offset, count)
    is_over = offset + len(data) >= len(file.data)
    return values.tuple_of([values.byte_list(data), values.boolean(is_over)])


def _write(call: HostCall) -> values.Put:
    data = call.byte_list(1)
    _scratch().write(_files().file(call.resource(0), writes=True), call.integer(2), data)
    return values.u64(len(data))


def _set_size(call: HostCall) -> None:
    _scratch().resize(_files().file(call.resource(0), writes=True), call.integer(1))


def _get_flags(call: HostCall) -> values.Put:
    descriptor = _files().descriptor(call.resource(0))
    names = ["read"] * descriptor.reads + ["write"] * descriptor.writes
    if isinstance(descriptor.node, Directory):
        names.append("mutate-directory")
    return values.flags(names)


def _set_times(node: File | Directory, call: HostCall, first_index: int) -> None:
    now_ns = _scratch().now_ns()
    node.accessed_ns = call.timestamp(first_index, node.accessed_ns, now_ns)
    node.modified_ns = call.timestamp(first_index + 1, node.modified_ns, now_ns)


def _create_directory_at(call: HostCall) -> None:
    _scratch().make_directory(_directory(call), call.string(1))


def _remove_directory_at(call: HostCall) -> None:
    _scratch().remove_directory(_directory(call), call.string(1))


def _unlink_file_at(call: HostCall) -> None:
    _scratch().remove_file(_directory(call), call.string(1))


def _rename_at(call: HostCall) -> None:
    _scratch().rename(_directory(call, 0), call.string(1), _directory(call, 2), call.string(3))


def _read_directory_entry(call: HostCall) -> values.Put:
    node = _files().listing(call.resource(0)).next()
    if node is None:
        return values.none()
    return values.some(values.record({"type": _kind(node), "name": values.string(node.name)}))


def _do_nothing(call: HostCall) -> None:
    call.resource(0)


def _refuse_link(call: HostCall) -> None:
    call.resource(0)
    raise FileError("not-permitted")


def _link_at(call: HostCall) -> None:
    call.resource(3)
    _refuse_link(call)


def _readlink_at(call: HostCall) -> None:
    _node_at(call, 1)
    raise FileError("invalid")


def _kind(node: File | Directory) -> values.Put:
    if isinstance(node, Null):
        return values.enum_case("character-device")
    return values.enum_case("directory" if isinstance(node, Directory) else "regular-file")


def _stat(node: File | Directory) -> values.Put:
    modified = values.some(_datetime(node.modified_ns))
    return values.record(
        {
            "type": _kind(node),
            "link-count": values.u64(1 if isinstance(node, Directory) or node.parent is not None else 0),
            "size": values.u64(len(node.data) if isinstance(node, File) else 0),
            "data-access-timestamp": values.some(_datetime(node.accessed_ns)),
            "data-modification-timestamp": modified,
            "status-change-timestamp": modified,
        }
    )


def _hash(node: File | Directory) -> values.Put:
    return values.record({"lower": values.u64(node.number), "upper": values.u64(0)})


def _datetime(nanoseconds: int) -> values.Put:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return values.record({"seconds": values.u64(seconds), "nanoseconds": values.u32(rest)})
