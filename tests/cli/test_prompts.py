"""`rlm prompts`, and texts given to `rlm complete`, as processes."""

from __future__ import annotations

import pytest
from rlm_server.engine.prompts import PROMPT_NAMES, default_prompts


def test_the_programs_own_sets_are_listed_without_a_server(run_rlm):
    done = run_rlm("prompts")
    assert done.returncode == 0
    assert done.stdout.startswith(f"v1 (default): {', '.join(PROMPT_NAMES)}\n\nNotes for models")
    assert "\ngpt-5: gpt-5*, " in done.stdout


def test_one_text_is_shown_as_it_is(run_rlm):
    assert run_rlm("prompts", "v1", "system").stdout == default_prompts().text("system") + "\n"


def test_a_servers_sets_are_listed_and_shown(run_rlm, target):
    listed = run_rlm("prompts", "--server", target)
    assert listed.stdout.splitlines()[:2] == ["v1 (default): task, turn", "mine (the operator's): task"]
    shown = run_rlm("prompts", "v1", "--server", target)
    assert shown.stdout == (
        "== task needs $contexts, $query\n$query\n$contexts\n\n== turn needs $iteration (optional)\n[$iteration]\n\n"
    )


def test_a_directory_adds_to_the_programs_own_sets(run_rlm, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "child_query.txt").write_text("Do it.\n")
    done = run_rlm("prompts", "ours", "child_query", "--prompts-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "Do it.\n")
    (tmp_path / "ours" / "task.txt").write_text("$query")
    done = run_rlm("prompts", "--prompts-dir", str(tmp_path))
    assert done.returncode == 2
    assert "task.txt lacks $contexts" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["v9"], "there is no set 'v9'; there are: v1"),
        (["v1", "sytem"], "there is no text 'sytem'; there are: system"),
        (["--server", "x", "--prompts-dir", "."], "--prompts-dir is for this program's own texts"),
    ],
)
def test_what_is_not_there_is_said(run_rlm, arguments, complaint):
    done = run_rlm("prompts", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_complete_sends_the_set_and_the_texts_that_replace_its_own(run_rlm, target, service, tmp_path):
    context, text = tmp_path / "c.txt", tmp_path / "task.txt"
    context.write_text("c")
    text.write_text("$query $contexts\n")
    arguments = ["--context", str(context), "--prompts", "mine", "--prompt", f"task={text}", "?"]
    assert run_rlm("complete", "--server", target, *arguments).returncode == 0
    (request,) = service.requests
    assert (request.prompts.name, dict(request.prompts.overrides)) == ("mine", {"task": "$query $contexts"})


@pytest.mark.parametrize("option", ["system", "system=missing.txt"])
def test_a_text_that_cannot_be_read_is_bad_input(run_rlm, target, tmp_path, option):
    context = tmp_path / "c.txt"
    context.write_text("c")
    done = run_rlm("complete", "--server", target, "--context", str(context), "--prompt", option, "?")
    assert done.returncode == 2
    assert option.rpartition("=")[2] in done.stderr
