"""The shell code of the documents: each command exists and takes its arguments; those that can run are run."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from rlm_api.rlm.v1 import completion_service_pb2 as _rlm  # noqa: F401 - puts its messages into the pool
from rlm_api.sandbox.v1 import execute_service_pb2 as _sandbox  # noqa: F401

from tests.support.command_lines import PROGRAMS, read
from tests.support.documents import ROOT, code_blocks, commands, documents, words
from tests.support.serving import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOT_OURS = {".", "brew", "diff", "docker", "echo", "export", "git", "go", "grep", "journalctl", "kubectl", "pip"}
"""Programs whose arguments are not checked here."""

COMMANDS = [
    (f"{block}: {command}", command)
    for document in documents()
    for block in code_blocks(document, "sh")
    for command in commands(block)
]


def check_grpcurl(arguments: list[str]) -> None:
    """Checks what is asked of a server against the contracts."""
    rest = [one for one in arguments if one != "-plaintext"]
    body = "{}"
    if rest[0] == "-d":
        body, rest = rest[1], rest[2:]
    address, *what = rest
    assert re.fullmatch(r"localhost:5005[12]", address)
    pool = descriptor_pool.Default()
    if what == ["list"]:
        return
    if what[0] == "describe":
        pool.FindFileContainingSymbol(what[1])  # as the servers' reflection does; it does not find methods
        return
    service, _, method = what[0].partition("/")
    input_type = pool.FindServiceByName(service).FindMethodByName(method).input_type
    json_format.Parse(body, message_factory.GetMessageClass(input_type)())


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_a_command_exists_and_takes_its_arguments(where: str, command: str) -> None:
    for program, *arguments in words(command):
        if program in PROGRAMS:
            read([program, *arguments])
        elif program == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            for target in arguments:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        elif program == "grpcurl":
            check_grpcurl(arguments)
        elif program.startswith(("scripts/", "deploy/")):
            assert (ROOT / program).is_file()
        else:
            assert program in NOT_OURS


def asking_the_readme() -> Iterator[str]:
    """Yields the questions about the README, each after what its block writes into files first."""
    for document in documents():
        for block in code_blocks(document, "sh"):
            lines = commands(block)
            files = [line for line in lines if line.startswith("echo ") and " > " in line]
            for line in lines:
                if line.startswith("rlm complete --context README.md"):
                    yield "\n".join([*files, line])


ASKING_THE_README = list(asking_the_readme())


def run(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "README.md", directory)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail\n{command}"],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_first_example_runs_as_it_is(tmp_path: Path) -> None:
    done = run(ASKING_THE_README[0], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 answer | Lines that count:" in done.stdout
    assert "The demo model answers" in done.stderr


@pytest.mark.parametrize("command", ASKING_THE_README[1:])
def test_the_other_questions_about_the_readme_are_answered(
    command: str, at_real_addresses: Callable[[str], str], tmp_path: Path
) -> None:
    if "--server" not in command:  # with servers that run already it takes less time
        command = command.replace("rlm complete", "rlm complete --server localhost:50051", 1)
    done = run(at_real_addresses(command), tmp_path)
    assert done.returncode == 0, done.stderr
    written = [file.read_text() for file in tmp_path.iterdir() if file.is_file() and file.name != "README.md"]
    shown = done.stdout + "".join(written)
    assert any(answer in shown for answer in ("Lines that count:", "0 result 1.1 | OK", '{"count": '))


@pytest.mark.parametrize("command", [command for _, command in COMMANDS if command.endswith("| rlm-sandbox run -")])
def test_code_in_a_pipe_runs_in_a_sandbox(command: str, tmp_path: Path) -> None:
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "499999500000\n"
