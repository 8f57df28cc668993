"""`rlm complete` and `rlm serve` with servers of their own, as processes: the whole path, the demo model at its end."""

from __future__ import annotations

import json
import re
import signal

import pytest


@pytest.fixture
def documents(tmp_path):
    """A directory with a package large enough for a child RLM, and one file beside it."""
    directory = tmp_path / "documents"
    (directory / "package").mkdir(parents=True)
    for number in range(12):
        (directory / "package" / f"{number:02}.py").write_text(
            "import functools\n\n@functools.lru_cache\ndef f(): ...\n"
        )
    (directory / "alone.py").write_text("# lru_cache is a decorator\n@lru_cache\ndef g(): ...\n")
    return directory


QUERY = "On how many lines is `lru_cache` used as a decorator, and in which files?"


def test_it_answers_with_the_demo_model_and_says_that_this_is_a_stand_in(run_rlm, documents):
    done = run_rlm("complete", "--context", str(documents), QUERY)
    assert done.returncode == 0, done.stderr
    assert "0 answer | Lines that count: 13, in 13 files or texts:" in done.stdout
    assert "0 answer | package/07.py: 3" in done.stdout
    assert "no language model" in done.stderr or "is none" in done.stderr


def test_the_events_as_json_have_no_gaps_and_a_child_with_sub_calls_of_its_own(run_rlm, documents):
    done = run_rlm("complete", "--json", "--context", str(documents), QUERY)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert "started" in events[0]
    assert events[-1]["finished"]["finishReason"] == "FINISH_REASON_ANSWERED"
    children = [event for event in events if event.get("subcallStarted", {}).get("kind") == "NODE_KIND_RLM"]
    assert len(children) == 1
    below = [event for event in events if event["nodeId"].startswith(f"{children[0]['nodeId']}.")]
    assert any("subcallStarted" in event for event in below)


def test_without_recursion_the_answer_is_the_same(run_rlm, documents):
    done = run_rlm("complete", "--max-depth", "0", "--context", str(documents), QUERY)
    assert "0 answer | Lines that count: 13, in 13 files or texts:" in done.stdout
    assert "MAX_DEPTH" in done.stdout


def test_a_limit_ends_with_exit_code_1(run_rlm, documents):
    done = run_rlm("complete", "--max-iterations", "1", "--context", str(documents), QUERY)
    assert done.returncode == 1
    assert "0 finished | MAX_ITERATIONS" in done.stdout


def test_a_model_that_fails_ends_with_exit_code_3(run_rlm, documents):
    done = run_rlm("complete", "--model", "demo-model?fault=500", "--context", str(documents), QUERY)
    assert done.returncode == 3
    assert "MODEL_ERROR" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_servers_and_completion_without_a_traceback(start_rlm, documents):
    process = start_rlm("complete", "--model", "demo-model?fault=hang", "--context", str(documents), QUERY)
    while not process.stdout.readline().startswith("0 turn 1"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "rlm: cancelled" in errors
    assert "Traceback" not in errors


def test_a_context_that_cannot_be_read_is_told_before_anything_starts(run_rlm, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    done = run_rlm("complete", "--context", str(path), QUERY)
    assert done.returncode == 2
    assert done.stderr.startswith(f"rlm: {path}: not UTF-8 at byte 3.")


def test_a_model_without_an_endpoint_is_refused_before_anything_starts(run_rlm, documents):
    done = run_rlm("complete", "--model", "gpt-9", "--context", str(documents), QUERY)
    assert done.returncode == 2
    assert "--base-url" in done.stderr


def test_a_sandbox_that_is_not_there_is_told(run_rlm, documents, tmp_path):
    nowhere = ("--sandbox", f"unix:{tmp_path}/none.sock", "--set", "sandbox_patience_seconds=0.5")
    done = run_rlm("complete", *nowhere, "--context", str(documents), QUERY)
    assert done.returncode == 3
    assert "no sandbox can be had" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_says_where_it_listens_and_drains_on_sigterm(start_rlm, run_rlm, documents):
    server = start_rlm("serve", "--listen", "127.0.0.1:0")
    address = None
    while address is None:
        line = server.stderr.readline()
        assert line, "the server has ended"
        found = re.search(r"serving addresses=(\S+) sandbox=(\S+) .*model=demo-model", line)
        address = found and found[1]
    done = run_rlm("complete", "-q", "--server", address, "--context", str(documents), QUERY)
    assert done.stdout.startswith("Lines that count: 13,")
    assert "demo-model (default; default for sub-calls; a stand-in" in run_rlm("models", "--server", address).stdout
    server.terminate()
    _, errors = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sandbox", "local", "--listen", "0.0.0.0:0"], "refused"),
        (["--base-url", "http://127.0.0.1:1/v1"], "--model"),
    ],
    ids=["local beyond loopback", "endpoint without model"],
)
def test_serve_refuses_settings_that_cannot_work(run_rlm, arguments, complaint):
    done = run_rlm("serve", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_functions_of_a_file_are_tools_in_the_sandbox(run_rlm, tmp_path):
    tools = tmp_path / "tools.py"
    tools.write_text('FACTOR = 3\n\n\ndef triple(x):\n    """Triples."""\n    return FACTOR * x\n')
    query = "What?\n<reply>\n~~~repl\nFINAL(triple(14))\n~~~\n</reply>"
    done = run_rlm("complete", "--context", str(tools), "--tool", str(tools), "--cache-subcalls", "--seed", "3", query)
    assert "0 answer | 42" in done.stdout, done.stderr
    bad = run_rlm("complete", "--context", str(tools), "--tool", str(tmp_path / "missing.py"), query)
    assert (bad.returncode, "missing.py cannot be read" in bad.stderr) == (2, True)


def test_an_answer_schema_gives_json(run_rlm, documents, tmp_path):
    schema = {
        "type": "object",
        "properties": {
            "count": {"type": "integer"},
            "found": {"type": "boolean"},
            "lines": {
                "type": "array",
                "items": {"type": "object", "properties": {"file": {"type": "string"}, "line": {"type": "integer"}}},
            },
        },
        "required": ["count", "found", "lines"],
    }
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    done = run_rlm("complete", "--quiet", "--answer-schema", str(file), "--context", str(documents), QUERY)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["count"], answer["found"]) == (13, True)
    assert {"file": "package/07.py", "line": 3} in answer["lines"]


@pytest.mark.parametrize(("text", "words"), [("{", "Expecting"), ("[]", "is no JSON object"), (None, "No such file")])
def test_a_file_that_is_no_answer_schema_is_bad_input(run_rlm, documents, tmp_path, text, words):
    file = tmp_path / "schema.json"
    if text is not None:
        file.write_text(text)
    done = run_rlm("complete", "--answer-schema", str(file), "--context", str(documents), QUERY)
    assert done.returncode == 2
    assert f"--answer-schema {file}" in done.stderr
    assert words in done.stderr


def test_a_schema_that_the_server_does_not_take_is_bad_input(run_rlm, documents, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "text"}')
    done = run_rlm("complete", "--answer-schema", str(file), "--context", str(documents), QUERY)
    assert done.returncode == 2
    assert "answer_schema: is no JSON Schema" in done.stderr
