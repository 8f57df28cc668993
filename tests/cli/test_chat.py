"""`rlm chat`, `rlm complete --keep` and `rlm conversations`, with real servers and the demo model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.serving import serving
from tests.support.terminal import on_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def notes(tmp_path: Path) -> str:
    path = tmp_path / "notes.txt"
    path.write_text("one apple\ntwo pears\nthree apple trees\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    command = ("rlm", "serve", "--listen", "127.0.0.1:0", "--sandbox", "local", "--model", "demo-model")
    with serving(*command, listens=r"serving addresses=(\S+) ", variables={"RLM_CONFIG": "", "RLM_DATA_DIR": ""}) as it:
        yield it


def test_a_chat_in_a_pipe_answers_line_by_line_and_closes_at_the_end(
    run_rlm: Any, server: str, notes: str, tmp_path: Path
) -> None:
    more = tmp_path / "more.txt"
    more.write_text("four plums\n", encoding="utf-8")
    stdin = f"Which lines mention `apple`?\n\n/variables\n/context {more}\nWhich lines mention `apple`?\n/quit\nnever\n"
    done = run_rlm("chat", "--server", server, "--context", notes, stdin=stdin.encode())
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^Lines that count: 2", done.stdout, re.MULTILINE)) == 2
    assert re.search(r"^context_0: str\[\d+\] = 'one apple", done.stdout, re.MULTILINE)
    assert run_rlm("conversations", "list", "--server", server).stdout == ""


def dictated(*replies: str) -> str:
    return "Play. " + " ".join(f"<reply>{reply}</reply>" for reply in replies)


def test_a_chat_takes_the_options_of_a_completion_and_ends_with_the_code_of_its_last_question(
    run_rlm: Any, server: str, notes: str, tmp_path: Path
) -> None:
    folder, schema, tools = tmp_path / "folder", tmp_path / "schema.json", tmp_path / "tools.py"
    folder.mkdir()
    (folder / "text").write_text("plums")
    (folder / "binary").write_bytes(b"\x00\xff")
    schema.write_text('{"type": "array"}')
    tools.write_text("def twice(text: str) -> str:\n    return text * 2\n")
    lines = [
        f"/context {folder}",
        f"/context more={notes}",
        dictated("FINAL_VAR([twice('ab'), sorted(context)])"),
    ]
    arguments = ("--context", f"first={notes}", "--describe", "first=our notes", "--glob", "*")
    options = ("--tool", str(tools), "--answer-schema", str(schema), "--max-iterations", "1", "--max-cost", "1")
    done = run_rlm("chat", "--server", server, *arguments, *options, stdin="\n".join(lines).encode())
    assert done.returncode == 0, done.stderr
    assert done.stdout == '["abab", ["context_1", "first", "more"]]\n'
    assert "1 files or directories are left out" in done.stderr
    lines.append(dictated("nothing"))
    done = run_rlm("chat", "--server", server, *arguments, *options, stdin="\n".join(lines).encode())
    assert done.returncode == 1, done.stderr
    assert "MAX_ITERATIONS" in done.stderr


def test_a_question_that_is_refused_ends_a_chat_in_a_pipe(run_rlm: Any, server: str, notes: str) -> None:
    lines = [dictated("FINAL(one)"), f"/context context_0={notes}", dictated("FINAL(two)"), dictated("FINAL(three)")]
    done = run_rlm("chat", "--server", server, "--context", notes, stdin="\n".join(lines).encode())
    assert (done.returncode, done.stdout) == (2, "one\n")
    assert "'context_0' is the name of an earlier part, too" in done.stderr
    assert run_rlm("conversations", "list", "--server", server).stdout == ""


def test_on_a_terminal_a_refused_question_and_a_cancelled_one_leave_the_chat_open(server: str, notes: str) -> None:
    with on_terminal("chat", "--server", server, "--context", notes) as screen:
        screen.wait_for("> ")
        screen.type(dictated("FINAL(one)") + "\n")
        screen.wait_for("ANSWERED")
        screen.type(f"/context context_0={notes}\n{dictated('FINAL(two)')}\n")
        screen.wait_for("'context_0' is the name of an earlier part")
        screen.type(dictated("FINAL_VAR([0 for _ in iter(int, 1)])") + "\n")
        screen.wait_for(r"FINAL(?s:.*)turn 1 of at most(?s:.*)FINAL(?s:.*)working")
        screen.type("\x03")
        screen.wait_for("rlm: cancelled")
        screen.type(dictated("FINAL_VAR(context_0[:9])") + "\n")
        screen.wait_for("one apple")
        screen.type("/quit\n")
        assert screen.end() == 0


def test_a_chat_brings_its_own_servers_if_none_is_named(run_rlm: Any, notes: str) -> None:
    stdin = b"Which lines mention `apple`?\n/help\n"
    done = run_rlm("chat", "--sandbox", "local", "--context", notes, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert "Lines that count: 2" in done.stdout
    assert "/variables" in done.stderr


def test_what_is_kept_can_be_gone_on_with_listed_looked_into_and_closed(run_rlm: Any, server: str, notes: str) -> None:
    query = "Which lines mention `apple`?"
    arguments = ("--server", server, "--quiet")
    kept = run_rlm("complete", *arguments, "--context", notes, "--keep", "--keep-for", "60", query)
    assert kept.returncode == 0, kept.stderr
    (conversation_id,) = re.findall(r"conversation (\w+)", kept.stderr)
    again = run_rlm("complete", *arguments, "--conversation", conversation_id, query)
    assert (again.returncode, "Lines that count: 2" in again.stdout) == (0, True), again.stderr
    listed = run_rlm("conversations", "list", "--server", server).stdout
    assert listed.startswith(f"{conversation_id}  2 completions, expires ")
    found = run_rlm("conversations", "variables", conversation_id, "--server", server).stdout
    assert re.search(r"^history_0: list\[\d+\]", found, re.MULTILINE)
    assert run_rlm("conversations", "close", conversation_id, "--server", server).returncode == 0
    gone = run_rlm("complete", *arguments, "--conversation", conversation_id, query)
    assert (gone.returncode, "closed or have expired" in gone.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("complete", "?"), "--context is missing"),
        (("chat",), "--context is missing"),
        (("complete", "--conversation", "x", "?"), "need --server"),
        (("complete", "--context", "-", "--keep", "?"), "need --server"),
        (("chat", "--conversation", "x"), "need --server"),
        (("chat", "--context", "-"), "standard input has the questions"),
        (("chat", "--context", "pyproject.toml", "--limit", "max_dept=1"), "did you mean max_depth"),
        (("complete", "--context", "-", "--keep-for", "9", "?"), "give --keep or --conversation, too"),
        (("complete", "--context", "-", "--detach", "--serve-tool", "t.py", "?"), "use --tool, or stay"),
    ],
)
def test_what_does_not_go_together_is_told(run_rlm: Any, arguments: tuple[str, ...], complaint: str) -> None:
    done = run_rlm(*arguments)
    assert (done.returncode, complaint in done.stderr) == (2, True)
