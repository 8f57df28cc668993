"""Clients are told of the files that code writes in its sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2
from rlm_server.cli import words

from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from rlm_api.rlm.v1.event_pb2 import CodeFinished

    from tests.support.scripted_model import ScriptedModel

WRITES = """
import os
os.mkdir("out")
for name in ("a.txt", "out/b.csv", "gone.txt"):
    with open(name, "w") as file:
        file.write("12345")
os.remove("gone.txt")
"""


def pairs(finished: CodeFinished) -> list[tuple[str, int]]:
    return [(file.path, file.size_bytes) for file in finished.files]


async def test_a_block_tells_which_files_it_wrote(model: ScriptedModel, sandbox_address: str) -> None:
    async with running_stack(model, sandbox=sandbox_address) as stack:
        events = await stack.complete(
            f"```repl\n{WRITES}\n```",
            "```repl\nopen('a.txt', 'a').write('6')\n```",
            "```repl\nprint(open('a.txt').read())\n```",
            "FINAL(done)",
        )
    first, second, third = events.of("code_finished")
    assert pairs(first) == [("a.txt", 5), ("out/b.csv", 5)]
    assert pairs(second) == [("a.txt", 6)]
    assert pairs(third) == []


async def test_of_very_many_files_the_rest_is_counted(model: ScriptedModel, sandbox_address: str) -> None:
    async with running_stack(model, sandbox=sandbox_address) as stack:
        events = await stack.run_code("for n in range(250): open(f'{n}.txt', 'w').close()")
    (finished,) = events.of("code_finished")
    assert (len(finished.files), finished.files_omitted_count) == (200, 50)


def test_the_command_line_names_the_first_files() -> None:
    files = [event_pb2.WrittenFile(path=f"f{number}\n", size_bytes=1000 * number) for number in range(7)]
    finished = event_pb2.CodeFinished(outcome=event_pb2.CODE_OUTCOME_OK, files=files, files_omitted_count=3)
    shown = ", ".join(f"f{number} ({1000 * number:,} bytes)" for number in range(5))
    assert words.outcome(finished) == f"OK in 0.000 s, wrote {shown} and 5 more"
