"""The scratch directory of a sandbox: ordinary Python works in it, files go in and come out, and it has a quota."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import limits, outcome, session
from tests.sandbox_server.file_programs import PROGRAMS
from tests.sandbox_server.uploads import upload
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    from tests.sandbox_server.driver import Session

    Stub = pb_grpc.ExecuteServiceAsyncStub

MIB = 1 << 20


@pytest.mark.parametrize("name", PROGRAMS)
async def test_ordinary_python_works(stub: Stub, name: str) -> None:
    code, printed = PROGRAMS[name]
    response = await stub.Run(pb.RunRequest(code=code))
    assert outcome(response.result) == "OK", response.result.error.traceback
    assert response.stdout.split() == printed.split()


ERRORS = {
    "open('nothing')": "FileNotFoundError",
    "import os; os.mkdir('d'); open('d', 'w')": "IsADirectoryError",
    "import os; os.mkdir('d'); os.mkdir('d')": "FileExistsError",
    "import os; open('f', 'w').close(); os.listdir('f')": "NotADirectoryError",
    "open('x' * 300, 'w')": "OSError: [Errno 37] Filename too long",
    "open('f', 'w').close(); open('f').write('x')": "UnsupportedOperation",
    "import os; open('f', 'w').close(); os.write(os.open('f', os.O_RDONLY), b'x')": "[Errno 8] Bad file descriptor",
    "import os; os.symlink('a', 'b')": "PermissionError",
    "import os; open('f', 'w').close(); os.link('f', 'g')": "PermissionError",
    "open('/etc/passwd')": "FileNotFoundError",
    "open('../../../etc/passwd')": "FileNotFoundError",
    "open('/proc/self/environ')": "FileNotFoundError",
}


@pytest.mark.parametrize("code", ERRORS)
async def test_what_cannot_be_done_raises_what_it_raises_elsewhere(stub: Stub, code: str) -> None:
    response = await stub.Run(pb.RunRequest(code=code))
    assert ERRORS[code] in response.result.error.traceback


async def test_the_quota_is_an_error_that_code_can_handle(stub: Stub) -> None:
    code = (
        "import errno, os\n"
        "try:\n    with open('big', 'wb') as f:\n        for _ in range(100): f.write(bytes(100_000))\n"
        "except OSError as error: print(error.errno == errno.ENOSPC, error.strerror)\n"
        "print(0 < os.path.getsize('big') <= 1 << 20)\nos.remove('big')\nopen('small', 'w').write('x' * 1000)"
    )
    response = await stub.Run(pb.RunRequest(code=code, limits=limits(scratch_bytes=MIB)))
    assert response.stdout == "True No space left on device\nTrue\n1000\n"
    assert 1000 < response.result.usage.scratch_bytes < 2000


async def test_a_result_tells_of_the_files_that_the_cell_changed(stub: Stub) -> None:
    async with session(stub) as s:
        cell = await s.run("for n in 'ba': open(n, 'w').write(n * 3)\nopen('/tmp/c', 'w').close()")
        assert changed(cell.result) == {"b": 3, "a": 3, "tmp/c": 0}
        cell = await s.run("import os\nopen('a', 'a').write('!')\nos.rename('b', 'd')\nos.remove('/tmp/c')")
        assert changed(cell.result) == {"a": 4, "d": 3}
        cell = await s.run("open('a').read()")
        assert changed(cell.result) == {}
        cell = await s.run("for n in range(250): open(f'{n}', 'w').close()")
        assert (len(cell.result.files), cell.result.files_omitted_count) == (200, 50)


def changed(result: pb.CellResult) -> dict[str, int]:
    return {file.path: file.size_bytes for file in result.files}


async def read(s: Session, path: str) -> list[pb.FileChunk]:
    await s.send(read_file=pb.ReadFile(path=path))
    chunks = [await s.receive_kind("file_chunk")]
    while not chunks[-1].last:
        chunks.append(await s.receive_kind("file_chunk"))
    assert all(chunk.path == path for chunk in chunks)
    return chunks


async def test_files_can_be_read_in_chunks(stub: Stub) -> None:
    async with session(stub) as s:
        await s.run("open('big', 'wb').write(bytes(range(256)) * 12_000)\nopen('empty', 'w').close()")
        chunks = await read(s, "big")
        assert b"".join(chunk.data for chunk in chunks) == bytes(range(256)) * 12_000
        assert max(len(chunk.data) for chunk in chunks) <= 64 * 1024
        [chunk] = await read(s, "empty")
        assert (chunk.data, chunk.error) == (b"", "")
        [chunk] = await read(s, "nothing")
        assert chunk.error == "there is no such file"
        [chunk] = await read(s, "tmp")
        assert chunk.error == "it is a directory"
        assert (await s.run("print('it goes on')")).stdout == "it goes on\n"


async def test_a_file_is_not_read_while_a_cell_runs(stub: Stub) -> None:
    async with session(stub) as s:
        await s.start("print('it runs', flush=True)\nimport time; time.sleep(100)")
        await s.receive_kind("output")
        await s.send(read_file=pb.ReadFile(path="x"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.receive()
        assert_status(
            error.value, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", domain="sandbox.v1", message="read_file"
        )


async def test_files_go_in_as_text_bytes_and_blobs(stub: Stub) -> None:
    data = b"from a blob" * 100_000
    await upload(stub, data)
    files = [
        pb.FileInput(path="a.txt", text="grüezi"),
        pb.FileInput(path="d/e/b.bin", data=b"\x00\xff"),
        pb.FileInput(path="c", blob_sha256=hashlib.sha256(data).hexdigest()),
        pb.FileInput(path="tmp/empty"),
    ]
    code = (
        "import hashlib, os\n"
        "print(open('a.txt').read(), open('d/e/b.bin', 'rb').read(), os.path.getsize('/tmp/empty'))\n"
        "print(hashlib.sha256(open('c', 'rb').read()).hexdigest())"
    )
    printed = f"grüezi {bytes([0, 255])!r} 0\n{hashlib.sha256(data).hexdigest()}\n"
    assert (await stub.Run(pb.RunRequest(code=code, files=files))).stdout == printed
    async with session(stub, files=files[:1]) as s:
        assert (await s.run("print(open('a.txt').read())")).stdout == "grüezi\n"
        await s.send(set_inputs=pb.SetInputs(files=[pb.FileInput(path="a.txt", text="adieu")]))
        await s.receive_kind("inputs_set")
        assert (await s.run("print(open('a.txt').read())")).stdout == "adieu\n"


async def test_a_run_returns_the_files_that_were_asked_for(stub: Stub) -> None:
    response = await stub.Run(
        pb.RunRequest(
            code="open('a', 'w').write('x'); open('big', 'wb').write(bytes(3 << 20)); open('/tmp/t', 'w').write('y')",
            output_files=["a", "nothing", "big", "tmp/t"],
        )
    )
    assert [(file.path, file.data, bool(file.error)) for file in response.files] == [
        ("a", b"x", False),
        ("nothing", b"", True),
        ("big", b"", True),
        ("tmp/t", b"y", False),
    ]
    killed = await stub.Run(
        pb.RunRequest(code="open('a', 'w').write('x')\nwhile True: pass", limits=limits(fuel=10**8), output_files=["a"])
    )
    assert (outcome(killed.result), list(killed.files)) == ("OUT_OF_FUEL", [])


async def test_files_stand_as_before_a_killed_cell(stub: Stub) -> None:
    async with session(stub, files=[pb.FileInput(path="given", text="given")]) as s:
        await s.run("f = open('log', 'w+')\nprint('first', file=f, flush=True)\nimport os; os.mkdir('d')")
        await s.send(set_inputs=pb.SetInputs(files=[pb.FileInput(path="d/later", text="later")]))
        await s.receive_kind("inputs_set")
        tell = "print([(p, os.stat(p).st_mtime_ns, os.stat(p).st_ino) for p in ('given', 'log', 'd', 'd/later')])"
        told = (await s.run(tell)).stdout
        kill = (
            "import shutil\nshutil.rmtree('d')\nprint('lost', file=f, flush=True)\nopen('new', 'w')\nwhile True: pass"
        )
        cell = await s.run(kill, limits=limits(fuel=10**9))
        assert (cell.outcome, cell.state) == ("OUT_OF_FUEL", "RESTORED")
        assert changed(cell.result) == {}
        assert (await s.run(tell)).stdout == told
        cell = await s.run(
            "print('second', file=f, flush=True)\nprint(open('log').read().split(), sorted(os.listdir()))"
        )
        assert cell.stdout == "['first', 'second'] ['d', 'given', 'log']\n"
        assert b"".join(chunk.data for chunk in await read(s, "d/later")) == b"later"


async def test_files_that_were_given_are_there_after_a_reset(stub: Stub) -> None:
    async with session(stub, files=[pb.FileInput(path="given", text="one")]) as s:
        await s.send(set_inputs=pb.SetInputs(files=[pb.FileInput(path="given", text="two")]))
        await s.receive_kind("inputs_set")
        await s.run("open('made', 'w').close()\nimport os\nfor _ in range(1100): os.urandom(65536)")  # over the record
        cell = await s.run("while True: pass", limits=limits(fuel=10**8))
        assert cell.state == "RESET"
        assert (await s.run("import os; print(open('given').read(), os.listdir())")).stdout == "two ['given']\n"


async def test_sessions_do_not_see_each_others_files(stub: Stub) -> None:
    async with session(stub) as one, session(stub) as other:
        await one.run("open('secret', 'w').write('x'); open('/tmp/secret', 'w').write('x')")
        assert (await other.run("import os; print(os.listdir('/'), os.listdir('/tmp'))")).stdout == "[] []\n"


BAD_FILES: list[tuple[list[pb.FileInput], str]] = [
    *[
        ([pb.FileInput(path=path)], "[0].path")
        for path in ("", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b", "x" * 1001, "ü" * 128)
    ],
    ([pb.FileInput(path="a"), pb.FileInput(path="a")], "[1].path"),
    ([pb.FileInput(path="a"), pb.FileInput(path="a/b")], "[1]"),
    ([pb.FileInput(path="a", blob_sha256="abc")], "[0].blob_sha256"),
    ([pb.FileInput(path="a", data=bytes(2 * MIB))], "[0]"),
    ([pb.FileInput(path="/".join("d" * 100))], "[0]"),
    ([pb.FileInput(path=f"{number}") for number in range(101)], ""),
]


@pytest.mark.parametrize(("files", "field"), BAD_FILES)
async def test_files_that_cannot_be_put_there_are_refused(stub: Stub, files: list[pb.FileInput], field: str) -> None:
    small = limits(scratch_bytes=MIB)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Run(pb.RunRequest(code="1", files=files, limits=small))
    assert violated_fields(error.value) == [f"files{field}"]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with session(stub, files=files, limits=small):
            pass
    assert violated_fields(error.value) == [f"open.files{field}"]
    async with session(stub, limits=small) as s:
        await s.send(set_inputs=pb.SetInputs(files=files))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.receive()
        assert violated_fields(error.value) == [f"set_inputs.files{field}"]


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"output_files": ["../x"]}, "output_files[0]"),
        ({"output_files": ["x"] * 101}, "output_files"),
        ({"limits": limits(scratch_bytes=-1)}, "limits.scratch_bytes"),
    ],
)
async def test_wrong_fields_of_a_run_are_named(stub: Stub, request_fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Run(pb.RunRequest(code="1", **request_fields))
    assert violated_fields(error.value) == [field]


async def test_a_wrong_path_to_read_ends_the_stream(stub: Stub) -> None:
    async with session(stub) as s:
        await s.send(read_file=pb.ReadFile(path="/etc/passwd"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.receive()
        assert violated_fields(error.value) == ["read_file.path"]


async def test_an_unknown_blob_for_a_file_is_not_found(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Run(pb.RunRequest(code="1", files=[pb.FileInput(path="a", blob_sha256="0" * 64)]))
    assert_status(error.value, grpc.StatusCode.NOT_FOUND, "BLOB_NOT_FOUND", domain="sandbox.v1")
