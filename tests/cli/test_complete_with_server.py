"""`rlm complete --server` against a fake server, as a process."""

from __future__ import annotations

import json
import signal

import pytest
from rlm_api.rlm.v1 import event_pb2
from rlm_common.errors import invalid_field

from tests.support.fake_completion_service import ending_with, finished
from tests.support.pictures import png


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("once upon a time")
    return path


def test_a_pipe_gets_plain_lines_with_the_node_first(run_rlm, target, book):
    done = run_rlm("complete", "--server", target, "--context", str(book), "?")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "0 started | c-1 model=m sub_model=s",
        "0 turn 1 | of at most 30, model=m",
        "0 reply 1 | 7 characters in 0.000 s, stop",
        "0 code 1.1 | x = 1",
        "0 code 1.1 | print(x)",
        "0.1 subcall | llm_query_batched[0] model call model=s prompt=1 characters",
        "0.1 subresult | ANSWERED in 0.000 s: yes",
        "0 stdout 1.1 | one",
        "0 stdout 1.1 | two",
        "0 result 1.1 | OK in 0.000 s",
        "0 finished | ANSWERED in 0.0 s: 1 turns, 0 sub-calls, 0 model calls, 0 tokens in, 0 out",
        "0 answer | 42",
    ]
    assert done.stderr == ""


def test_json_gives_every_event_as_a_line(run_rlm, target, book):
    done = run_rlm("complete", "--json", "--server", target, "--context", str(book), "?")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [int(event["sequence"]) for event in events] == list(range(1, 12))
    assert events[-1]["finished"]["answer"] == "42"
    assert events[-1]["finished"]["finishReason"] == "FINISH_REASON_ANSWERED"


@pytest.mark.parametrize("command", ["complete", "chat"])
def test_what_only_the_server_itself_can_be_told_is_refused(run_rlm, target, book, command):
    arguments = ["--server", target, "--context", str(book), "--base-url", "http://x/v1", "--set", "grace_seconds=1"]
    done = run_rlm(command, *arguments, *(["?"] if command == "complete" else []))
    assert done.returncode == 2
    assert done.stderr == "rlm: --set, --base-url cannot be told to a running server: give it to its `rlm serve`\n"


def test_a_look_can_be_required_waived_or_left_to_the_server(run_rlm, service, target, book):
    for flags in (["--no-require-look"], ["--require-look"], []):
        run_rlm("complete", "--server", target, "--context", str(book), *flags, "?")
    said = [request.look_required if request.HasField("look_required") else None for request in service.requests]
    assert said == [False, True, None]


def test_quiet_gives_the_answer_only(run_rlm, target, book):
    done = run_rlm("complete", "-q", "--server", target, "--context", str(book), "?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (event_pb2.FINISH_REASON_ANSWERED, 0),
        (event_pb2.FINISH_REASON_MAX_ITERATIONS, 1),
        (event_pb2.FINISH_REASON_WALL_TIME, 1),
        (event_pb2.FINISH_REASON_NO_PROGRESS, 1),
        (event_pb2.FINISH_REASON_MODEL_ERROR, 3),
        (event_pb2.FINISH_REASON_SANDBOX_ERROR, 3),
        (event_pb2.FINISH_REASON_CANCELLED, 130),
    ],
)
def test_the_exit_code_tells_how_it_ended(run_rlm, target, service, book, reason, code):  # noqa: PLR0917
    service.events = ending_with(finished("part", reason, partial=True, error="why" if code else ""))
    done = run_rlm("complete", "-q", "--server", target, "--context", str(book), "?")
    assert done.returncode == code
    assert done.stdout == "part\n"
    assert ("why" in done.stderr) == bool(code)


def test_standard_input_is_a_context(run_rlm, target, service):
    run_rlm("complete", "-q", "--server", target, "--context", "-", "?", stdin="grüße".encode())
    assert service.requests[0].contexts[0].text == "grüße"


def test_several_contexts_can_have_names(run_rlm, target, service, book):
    run_rlm("complete", "-q", "--server", target, "--context", f"novel={book}", "--context", "rest=-", "?", stdin=b"x")
    parts = service.requests[0].contexts
    assert [(part.name, part.text) for part in parts] == [("novel", "once upon a time"), ("rest", "x")]


def test_a_directory_can_be_filtered_and_what_is_left_out_is_told(run_rlm, target, service, tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.md").write_text("# b")
    (tmp_path / "c.py").write_bytes(b"\0")
    done = run_rlm("complete", "-q", "--server", target, "--context", str(tmp_path), "--glob", "*.py", "?")
    documents = json.loads(service.requests[0].contexts[0].json)
    assert [(one["id"], one["text"]) for one in documents] == [("a.py", "x = 1")]
    assert "c.py: binary" in done.stderr
    assert "b.md" not in done.stderr


def test_the_answer_can_go_to_a_file_too(run_rlm, target, book, tmp_path):
    done = run_rlm("complete", "--server", target, "--context", str(book), "-o", str(tmp_path / "answer"), "?")
    assert (tmp_path / "answer").read_text() == "42"
    assert "0 answer | 42" in done.stdout


def test_files_that_come_are_saved_below_a_directory_and_nowhere_else(run_rlm, target, service, book, tmp_path):
    parts = [
        event_pb2.FileContent(path="out/a.csv", size_bytes=4, data=b"1,"),
        event_pb2.FileContent(path="out/a.csv", size_bytes=4, offset=2, data=b"2\n", last=True),
        event_pb2.FileContent(path="../b.csv", size_bytes=1, data=b"x", last=True),
        event_pb2.FileContent(path="c.csv", size_bytes=9, last=True, error="it is too large"),
    ]
    service.events = ending_with(finished("42"), parts)
    options = ["--save-files", str(tmp_path / "files"), "--files", "*.csv"]
    done = run_rlm("complete", "--server", target, "--context", str(book), *options, "?")
    assert service.requests[0].return_files.patterns == ["*.csv"]
    assert (tmp_path / "files" / "out" / "a.csv").read_bytes() == b"1,2\n"
    assert not (tmp_path / "b.csv").exists()
    assert done.stderr.splitlines() == [
        f"rlm: saved {tmp_path / 'files' / 'out' / 'a.csv'}, 4 bytes",
        "rlm: ../b.csv leads out of the directory",
        "rlm: c.csv was not returned: it is too large",
    ]
    assert "0 file | out/a.csv: 4 bytes" in done.stdout
    assert "0 file | c.csv is not returned: it is too large" in done.stdout


def test_limits_and_models_are_passed_on(run_rlm, target, service, book):
    options = ["--max-depth", "0", "--max-iterations", "3", "--max-subcalls", "9", "--timeout", "1.5"]
    models = ["--model", "big", "--sub-model", "small"]
    run_rlm("complete", "-q", "--server", target, "--context", str(book), *options, *models, "?")
    request = service.requests[0]
    assert (request.model, request.sub_model) == ("big", "small")
    assert (request.limits.max_depth, request.limits.max_iterations, request.limits.max_subcalls) == (0, 3, 9)
    assert request.limits.wall_time.ToMilliseconds() == 1500


def test_any_limit_and_what_models_are_told_can_be_given_by_name(run_rlm, target, service, book):
    limits = ["--limit", "max_concurrent_subcalls=4", "--limit", "cell.wall_time=1.5", "--limit", "cell.fuel=1000000"]
    sampling = ["--sampling", "temperature=0.5", "--sampling", "reasoning_effort=low"]
    options = [*limits, "--max-depth", "2", *sampling, "--no-compaction", "--compact-at", "0.7"]
    run_rlm("complete", "-q", "--server", target, "--context", str(book), *options, "?")
    request = service.requests[0]
    assert (request.limits.max_depth, request.limits.max_concurrent_subcalls) == (2, 4)
    assert (request.limits.cell.wall_time.ToMilliseconds(), request.limits.cell.fuel) == (1500, 1_000_000)
    assert (request.sampling.temperature, request.sampling.reasoning_effort) == (0.5, "low")
    assert (request.compaction.disabled, request.compaction.threshold) == (True, 0.7)


def test_an_option_that_is_wrong_is_told_and_nothing_is_sent(run_rlm, target, service, book):
    done = run_rlm("complete", "--server", target, "--context", str(book), "--limit", "max_dept=1", "?")
    assert (done.returncode, service.requests) == (2, [])
    assert done.stderr == "rlm: --limit max_dept=1: there is no limit 'max_dept'; did you mean max_depth?\n"


def test_json_files_can_become_values_and_contexts_be_described(run_rlm, target, service, tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, 2]}')
    contexts = ["--context", f"orders={tmp_path / 'a.json'}", "--context", "notes=-", "--parse-json"]
    describe = ["--describe", "orders=those of May"]
    run_rlm("complete", "-q", "--server", target, *contexts, *describe, "?", stdin=b"x")
    orders, notes = service.requests[0].contexts
    assert (orders.name, orders.json, orders.description) == ("orders", '{"a": [1, 2]}', "those of May")
    assert (notes.text, notes.description) == ("x", "")


def test_a_server_that_is_not_there_is_told_once_for_each_try(run_rlm, book):
    done = run_rlm("complete", "--server", "127.0.0.1:1", "--context", str(book), "?")
    assert done.returncode == 3
    *tries, last = done.stderr.splitlines()
    for line, delay in zip(tries, (0.1, 0.2, 0.4), strict=True):
        assert line.startswith(f"rlm: the call failed before its first event and is made again in {delay} s: UNAVAIL")
    assert last.startswith("rlm: no server answers at 127.0.0.1:1")


def test_what_an_answer_must_be_is_passed_on_and_its_json_shown(run_rlm, target, service, book, tmp_path):
    schema, out = tmp_path / "schema.json", tmp_path / "answer.json"
    schema.write_text('{"type": "integer"}')
    service.events = ending_with(finished("```json\n42\n```", answer_json="42"))
    arguments = ["--answer-schema", str(schema), "--require-look", "--quiet", "--output", str(out)]
    done = run_rlm("complete", *arguments, "--server", target, "--context", str(book), "?")
    assert (done.stdout, out.read_text()) == ("42\n", "42")
    request = service.requests[0]
    assert (json.loads(request.answer_schema), request.look_required) == ({"type": "integer"}, True)


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("", "--context: it is empty; name a file, a directory, or - for standard input"),
        ("my-log=a.txt", "my-log=a.txt: there is no such file; in NAME=PATH the name has letters, digits and _ only"),
        ("log=", "log=: there is no such file"),
    ],
)
def test_what_names_no_context_is_told(run_rlm, target, service, argument, complaint):
    done = run_rlm("complete", "--server", target, "--context", argument, "?")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not service.requests


def test_a_file_that_is_no_utf8_is_named_with_the_offset_and_the_remedy(run_rlm, target, service, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    done = run_rlm("complete", "--server", target, "--context", str(path), "?")
    assert done.returncode == 2
    assert f"{path}: not UTF-8 at byte 3" in done.stderr
    assert "--charset" in done.stderr
    assert "Traceback" not in done.stderr
    assert not service.requests


def test_a_character_set_can_be_named(run_rlm, target, service, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    done = run_rlm("complete", "-q", "--server", target, "--context", str(path), "--charset", "iso-8859-1", "?")
    assert done.returncode == 0
    encoded = service.requests[0].contexts[0].encoded
    assert (encoded.data, encoded.charset) == (b"caf\xe9", "iso-8859-1")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--context", "/none/at/all"], "No such file"),
        (["--context", "-", "--context", "-"], "only once"),
        (["--context", "-", "--charset", "klingon"], "no character set 'klingon'"),
        ([], "--context"),
    ],
    ids=["no such file", "standard input twice", "unknown character set", "no context"],
)
def test_a_bad_command_line_is_told_without_a_traceback(run_rlm, target, arguments, complaint):
    done = run_rlm("complete", "--server", target, *arguments, "?", stdin=b"x")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_named_with_the_remedy(run_rlm, book):
    done = run_rlm("complete", "--server", "127.0.0.1:1", "--context", str(book), "?")
    assert done.returncode == 3
    assert "no server answers at 127.0.0.1:1" in done.stderr
    assert "rlm serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_request_that_the_server_refuses_names_the_fields(run_rlm, target, service, book):
    service.error = invalid_field("limits.max_depth", "must not be negative")
    done = run_rlm("complete", "--server", target, "--context", str(book), "--max-depth", "-1", "?")
    assert done.returncode == 2
    assert "limits.max_depth: must not be negative" in done.stderr


def test_a_server_that_breaks_off_is_told(run_rlm, target, service, book):
    service.events = service.events[:4]
    done = run_rlm("complete", "--server", target, "--context", str(book), "?")
    assert done.returncode == 3
    assert "ended after event 4" in done.stderr


def test_ctrl_c_cancels_the_completion_and_leaves_no_traceback(start_rlm, target, service, book):
    service.hold_after = 5
    process = start_rlm("complete", "--server", target, "--context", str(book), "?")
    assert process.stdout.readline().startswith("0 started")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "rlm: cancelled\n"
    assert service.caller_is_gone.wait(10)


def test_models_lists_what_the_server_has(run_rlm, target):
    done = run_rlm("models", "--server", target)
    assert done.stdout.splitlines() == [
        (
            "m (default; default for sub-calls; window of 400,000 tokens; $1.25 in, $10 out per million tokens; "
            "falls back on demo-model)"
        ),
        "demo-model (a stand-in, no language model)",
    ]


def test_models_of_a_server_that_is_not_there(run_rlm):
    done = run_rlm("models", "--server", "127.0.0.1:1")
    assert done.returncode == 3
    assert "no server answers at 127.0.0.1:1" in done.stderr


def test_when_messages_are_summed_up_is_passed_on(run_rlm, target, service, tmp_path):
    (tmp_path / "notes.txt").write_text("text", encoding="utf-8")
    arguments = ("--context-window", "8000", "--compact-at", "0.5", "What?")
    done = run_rlm("complete", "--server", target, "--context", str(tmp_path / "notes.txt"), *arguments)
    assert done.returncode == 0, done.stderr
    compaction = service.requests[-1].compaction
    assert (compaction.context_window_tokens, compaction.threshold) == (8000, 0.5)


def test_a_conversation_is_kept_or_gone_on_with_as_asked(run_rlm, target, service, tmp_path):
    (tmp_path / "notes.txt").write_text("text", encoding="utf-8")
    context = ("--context", str(tmp_path / "notes.txt"))
    run_rlm("complete", "--server", target, *context, "--keep", "--keep-for", "1.5", "What?")
    first = service.requests[-1]
    assert (first.keep_conversation, first.conversation_time_to_live.ToMilliseconds()) == (True, 1500)
    run_rlm("complete", "--server", target, "--conversation", "abc", "And?")
    second = service.requests[-1]
    assert (second.conversation_id, second.keep_conversation, len(second.contexts)) == ("abc", False, 0)


def test_a_direct_answer_is_allowed_by_a_flag_and_told_as_a_line(run_rlm, target, service, book):
    direct = event_pb2.Event(node_id="0", answered_directly=event_pb2.AnsweredDirectly(context_tokens=6))
    service.events = [service.events[0], direct, service.events[-1]]
    done = run_rlm("complete", "--direct", "--server", target, "--context", str(book), "?")
    assert service.requests[0].direct_answer_allowed
    assert "0 direct | one plain call over about 6 tokens of context" in done.stdout.splitlines()


def test_a_picture_is_sent_as_one(run_rlm, target, service, tmp_path):
    path = tmp_path / "flag.png"
    path.write_bytes(png())
    run_rlm("complete", "-q", "--server", target, "--context", f"flag={path}", "?")
    (part,) = service.requests[0].contexts
    assert (part.name, part.image.media_type, part.image.data) == ("flag", "image/png", png())
