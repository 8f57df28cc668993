"""Clients are given the files that the root's code writes, where they ask for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2
from rlm_client import AsyncClient, Client, ReturnFiles
from rlm_server.journal.recorder import Recorder, never

from tests.durability.test_completions import watch
from tests.support.rlm_stack import Events, running_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from rlm_api.rlm.v1 import event_pb2

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel

ALL = pb.ReturnFiles()
WRITES = """```repl
import os
os.makedirs("out/deep")
for name, text in {"b.csv": "1,2", "out/a.csv": "3,4", "out/deep/c.txt": "x", "empty": ""}.items():
    with open(name, "w") as file:
        file.write(text)
```"""


@pytest.fixture
async def stack(model: ScriptedModel, sandbox_address: str) -> AsyncIterator[Stack]:
    async with running_stack(model, sandbox=sandbox_address) as running:
        yield running


def contents(events: Events) -> dict[str, bytes]:
    """Returns the files that were returned, which must be whole."""
    files: dict[str, bytes] = {}
    for part in events.of("file_content"):
        assert part.error == ""
        assert part.offset == len(files.setdefault(part.path, b""))
        files[part.path] += part.data
        assert part.last == (len(files[part.path]) == part.size_bytes)
    return files


def errors(events: Events) -> dict[str, str]:
    return {part.path: part.error for part in events.of("file_content") if part.error}


async def test_all_files_come_before_the_end_in_the_order_in_which_they_were_written(stack: Stack) -> None:
    events = await stack.complete(WRITES, "```repl\nopen('b.csv', 'a').write(',5')\n```", "FINAL(x)", return_files=ALL)
    files = contents(events)
    assert list(files) == ["b.csv", "out/a.csv", "out/deep/c.txt", "empty"]
    assert list(files.values()) == [b"1,2,5", b"3,4", b"x", b""]
    assert events.kinds()[-5:] == [*["file_content"] * 4, "finished"]
    assert events.warnings == []


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        (["*.csv"], ["b.csv", "out/a.csv"]),
        (["out/*"], ["out/a.csv", "out/deep/c.txt"]),
        (["b.csv", "empty"], ["b.csv", "empty"]),
        (["*.CSV", "nothing"], []),
    ],
)
async def test_patterns_select_files_by_their_paths(stack: Stack, patterns: list[str], paths: list[str]) -> None:
    events = await stack.complete(WRITES, "FINAL(x)", return_files=pb.ReturnFiles(patterns=patterns))
    assert list(contents(events)) == paths


async def test_the_root_s_model_is_told_of_the_files_that_are_wanted(stack: Stack) -> None:
    query = "```repl\nrlm_query('?', context='abc')\n```"
    await stack.complete(query, "FINAL(y)", "FINAL(x)", return_files=pb.ReturnFiles(patterns=["*.csv"], max_bytes=2000))
    root, child = stack.model.conversations[0], stack.model.conversations[1]
    assert "(`*.csv`; at most 2,000 bytes together)" in root[0]["content"]
    assert "- Files:" not in child[0]["content"]


async def test_nobody_gets_files_that_were_not_asked_for(stack: Stack) -> None:
    assert (await stack.complete(WRITES, "FINAL(x)")).of("file_content") == []


async def test_a_large_file_comes_in_parts(stack: Stack) -> None:
    code = "open('large', 'wb').write(bytes(range(256)) * 4000)"
    events = await stack.complete(f"```repl\n{code}\n```", "FINAL(x)", return_files=ALL)
    assert contents(events) == {"large": bytes(range(256)) * 4000}
    assert [len(part.data) for part in events.of("file_content")] == [262144, 262144, 262144, 237568]


async def test_what_does_not_fit_is_named_with_the_reason_and_the_rest_comes(stack: Stack) -> None:
    code = "for n in (30, 80, 70, 1): open(str(n), 'w').write('x' * n)"
    events = await stack.complete(f"```repl\n{code}\n```", "FINAL(x)", return_files=pb.ReturnFiles(max_bytes=100))
    assert [part.path for part in events.of("file_content") if not part.error] == ["30", "70"]
    assert errors(events) == {
        "80": "it has 80 bytes, and 70 are left of `return_files.max_bytes`, 100",
        "1": "it has 1 bytes, and 0 are left of `return_files.max_bytes`, 100",
    }


async def test_the_operator_s_limit_is_the_greatest(model: ScriptedModel, sandbox_address: str) -> None:
    async with running_stack(model, sandbox=sandbox_address, max_returned_file_bytes=50) as stack:
        code = "open('a', 'w').write('x' * 60)"
        events = await stack.complete(f"```repl\n{code}\n```", "FINAL(x)", return_files=pb.ReturnFiles(max_bytes=1000))
    assert "50 are left" in errors(events)["a"]


async def test_a_file_that_was_deleted_later_is_named_as_such(stack: Stack) -> None:
    events = await stack.complete(WRITES, "```repl\nos.remove('b.csv')\n```", "FINAL(x)", return_files=ALL)
    assert errors(events) == {"b.csv": "there is no such file"}
    assert len(events.of("file_content")) == 4


async def test_files_come_also_where_a_limit_ends_the_completion(stack: Stack) -> None:
    events = await stack.complete(WRITES, "so far", return_files=ALL, limits=limits_pb2.Limits(max_iterations=1))
    assert (events.reason, len(contents(events))) == ("MAX_ITERATIONS", 4)


async def test_where_the_time_is_up_it_is_told_that_files_are_not_returned(stack: Stack) -> None:
    limits = limits_pb2.Limits(wall_time=duration_pb2.Duration(seconds=2))
    events = await stack.complete(WRITES, "```repl\nwhile True: pass\n```", return_files=ALL, limits=limits)
    assert (events.reason, events.warnings) == ("WALL_TIME", ["FILES_NOT_RETURNED"])
    assert events.of("warning")[0].message == "4 files are not returned: wall_time of 2 s is reached"


async def test_files_of_children_are_not_returned(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nrlm_query('write', context='abc')\nopen('mine', 'w').write('x')\n```",
        "```repl\nopen('theirs', 'w').write(context)\nFINAL('done')\n```",
        "FINAL(x)",
        return_files=ALL,
    )
    assert list(contents(events)) == ["mine"]


async def test_files_beyond_those_that_are_listed_are_counted(stack: Stack) -> None:
    code = "for n in range(203): open(f'{n}', 'w').close()"
    events = await stack.complete(f"```repl\n{code}\n```", "FINAL(x)", return_files=ALL)
    assert len(contents(events)) == 200
    assert [one.message[:24] for one in events.of("warning")][-1] == "3 files are not returned"


async def test_the_local_executor_says_that_it_has_none(model: ScriptedModel) -> None:
    async with running_stack(model) as stack:
        events = await stack.complete("```repl\nx = 1\n```", "FINAL(x)", return_files=ALL)
    assert events.of("file_content") == []


async def test_a_conversation_returns_what_its_latest_completion_wrote(stack: Stack) -> None:
    first = await stack.complete(WRITES, "FINAL(x)", return_files=ALL, keep_conversation=True)
    kept = first.of("started")[0].conversation_id
    code = "open('new', 'w').write(open('b.csv').read())"
    events = await stack.complete(
        f"```repl\n{code}\n```", "FINAL(x)", return_files=ALL, conversation_id=kept, contexts=[]
    )
    assert contents(events) == {"new": b"1,2"}


@pytest.mark.parametrize("is_told", [False, True])
async def test_a_server_that_stops_costs_no_file_and_tells_none_twice(
    model: ScriptedModel, sandbox_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    settings: dict[str, Any] = {"data_dir": tmp_path, "sandbox": sandbox_address, "lease_seconds": 0.6}
    draws = "```repl\nimport random\nopen('drawn', 'w').write(str(random.random()))\n```"

    def is_reached(event: event_pb2.Event) -> bool:
        return event.file_content.path == "drawn" if is_told else event.model_reply_finished.iteration == 3

    with monkeypatch.context() as patched:
        # The server stops before it tells of the first file, or between the last one and the end.
        if is_told:
            patched.setattr(Recorder, "end", lambda *_: never())
        else:
            patched.setattr("rlm_server.engine.completion.return_files", lambda *_: never())
        async with running_stack(model, **settings) as stack:
            call = stack.start([WRITES, draws, "FINAL(x)"], detached=True, return_files=ALL)
            told = [(await call.read()).event]
            while not (
                told[-1].file_content.path == "drawn" if is_told else told[-1].model_reply_finished.iteration == 3
            ):
                told.append((await call.read()).event)
    async with running_stack(model, **settings) as stack:
        events = await asyncio.wait_for(watch(stack, told[0].completion_id), 20)
    assert list(contents(events)) == ["b.csv", "out/a.csv", "out/deep/c.txt", "empty", "drawn"]
    assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
    if is_told:
        assert events.all[: len(told)] == told


async def test_the_clients_have_the_files_and_save_them(stack: Stack, tmp_path: Path) -> None:
    address = stack.server.addresses[0]
    stack.model.follow([WRITES, "FINAL(x)"])
    async with AsyncClient(address) as client:
        completion = await client.completion("abc", "What is it?", return_files=ReturnFiles(["*.csv"]))
        stream = client.watch(completion.completion_id)
        async with stream:
            again = await stream.result()
    assert [(file.path, file.data) for file in completion.files] == [("b.csv", b"1,2"), ("out/a.csv", b"3,4")]
    assert again.files == completion.files
    assert [file.save(tmp_path).relative_to(tmp_path).as_posix() for file in completion.files] == ["b.csv", "out/a.csv"]
    assert (tmp_path / "out" / "a.csv").read_bytes() == b"3,4"

    def ask() -> Any:
        with Client(address) as client:
            return client.completion("abc", "What is it?", return_files=ReturnFiles(max_bytes=4))

    stack.model.follow([WRITES, "FINAL(x)"])
    completion = await asyncio.to_thread(ask)
    assert [file.path for file in completion.files if file.error] == ["out/a.csv"]
