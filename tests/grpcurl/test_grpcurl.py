"""Both servers answer the real grpcurl, by the lines that the documents have."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.documents import ROOT, code_blocks, commands

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[[str], subprocess.CompletedProcess[str]]

# Building grpcurl is part of the first test's set-up.
pytestmark = pytest.mark.timeout(900)

README = [
    command
    for block in code_blocks(ROOT / "README.md", "sh")
    for command in commands(block)
    if command.startswith("grpcurl ")
]
SANDBOX_PAGE = [
    command
    for block in code_blocks(ROOT / "docs" / "sandbox.md", "sh")
    for command in commands(block)
    if command.startswith("grpcurl ")
]


def line(*parts: str, of: list[str] = README) -> str:
    """Returns the one command that has all parts."""
    (found,) = (command for command in of if all(part in command for part in parts))
    return found


def messages(text: str) -> list[dict[str, Any]]:
    """Returns the JSON objects that grpcurl printed one after the other."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while position < len(text.rstrip()):
        message, position = decoder.raw_decode(text, position)
        found.append(message)
        position += 1
    return found


def test_list_names_the_services(run: Run) -> None:
    rlm, sandbox = run(line("50051 list")), run(line("50052 list"))
    assert "rlm.v1.CompletionService" in rlm.stdout.split()
    assert "sandbox.v1.ExecuteService" in sandbox.stdout.split()
    for done in (rlm, sandbox):
        assert "grpc.health.v1.Health" in done.stdout.split()


def test_describe_shows_a_service_and_messages(run: Run) -> None:
    service = run(line("describe rlm.v1.CompletionService")).stdout
    assert "rpc Complete ( .rlm.v1.CompleteRequest ) returns ( stream .rlm.v1.CompleteResponse );" in service
    message = run(line("describe rlm.v1.CompleteRequest")).stdout
    assert "repeated .rlm.v1.ContextPart contexts = 2;" in message
    message = run(line("describe sandbox.v1.RunRequest")).stdout
    assert "repeated .sandbox.v1.Input inputs = 2;" in message


def test_complete_streams_events_from_started_to_finished(run: Run) -> None:
    done = run(line("CompletionService/Complete"))
    assert done.returncode == 0, done.stderr
    events = [message["event"] for message in messages(done.stdout)]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert "started" in events[0]
    finished = events[-1]["finished"]
    assert finished["finish_reason"] == "FINISH_REASON_ANSWERED"
    assert "context: 2\n" in finished["answer"]


def test_a_person_at_the_keyboard_can_serve_a_tool(grpcurl: str, servers: tuple[str, str]) -> None:
    dictation = "<reply>\n```repl\nFINAL(weather(city='Oslo'))\n```\n</reply>"
    start = {"query": dictation, "contexts": [{"text": "-"}], "tools": [{"name": "weather", "client_served": True}]}
    command = [grpcurl, "-plaintext", "-d", "@", servers[0], "rlm.v1.CompletionService/CompleteWithTools"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"start": start}) + "\n")
        printed = ""
        for printed_line in process.stdout:
            printed += printed_line
            if printed_line == "}\n" and "tool_call" in (event := messages(printed)[-1]["event"]):
                assert event["tool_call"]["name"] == "weather"
                result = {"call_id": event["tool_call"]["call_id"], "value_json": '"rain"'}
                process.stdin.write(json.dumps({"tool_result": result}) + "\n")
            if '"finished": {' in printed_line:
                process.stdin.close()
    assert process.returncode == 0
    assert messages(printed)[-1]["event"]["finished"]["answer"] == "rain"


def test_run_gives_the_value_of_the_code(run: Run) -> None:
    done = run(line("sum(prices)"))
    (response,) = messages(done.stdout)
    assert response["stdout"] == "6.0\n"
    assert response["result"]["outcome"] == "OUTCOME_OK"
    assert response["result"]["value_repr"] == "6.0"


def test_run_gives_variables_on_request(run: Run) -> None:
    done = run(line("text.title()", of=SANDBOX_PAGE))
    (response,) = messages(done.stdout)
    assert response["stdout"] == "Many Small Words\n16\n"
    assert response["result"]["variables"][0]["json"] == '"many small words"'


def test_code_that_never_ends_is_a_result(run: Run) -> None:
    done = run(line("while True"))
    assert done.returncode == 0, done.stderr
    (response,) = messages(done.stdout)
    assert response["result"]["outcome"] == "OUTCOME_DEADLINE"


def test_an_error_names_the_fields(run: Run) -> None:
    done = run(line('"fuel": -1'))
    assert done.returncode != 0
    (shown,) = (block.text for block in code_blocks(ROOT / "README.md", "text") if block.text.startswith("ERROR:"))
    assert shown in done.stderr
    assert '"@type": "type.googleapis.com/google.rpc.BadRequest"' in done.stderr
    for name in ("code", "limits.fuel"):
        assert f'"field": "{name}"' in done.stderr


def test_every_line_of_the_readme_is_tried_here() -> None:
    tried = ["50051 list", "50052 list", "describe rlm.v1.CompletionService", "describe rlm.v1.CompleteRequest"]
    tried += ["describe sandbox.v1.RunRequest", "CompletionService/Complete", "sum(prices)", "while True"]
    tried += ['"fuel": -1']
    assert {line(part) for part in tried} == set(README)
