"""`rlm completions` on a real server with the demo model, as people use it."""

from __future__ import annotations

import pytest

from tests.support.serving import serving

QUERY = "How many lines contain `two`?"


@pytest.fixture(scope="module")
def server():
    command = ("rlm", "serve", "--listen", "127.0.0.1:0", "--sandbox", "local", "--model", "demo-model")
    with serving(*command, listens=r"serving addresses=(\S+) ") as address:
        yield address


def test_a_detached_completion_is_found_followed_and_forgotten(run_rlm, server):
    def rlm(*arguments):
        return run_rlm(*arguments, "--server", server)

    begin = ("complete", "--detach", "--request-id", "r", "--label", "team=a", "--context", "-")
    completion_id = run_rlm(*begin, "--server", server, QUERY, stdin=b"one\ntwo\nthree").stdout.strip()
    assert run_rlm(*begin, "--server", server, QUERY, stdin=b"one\ntwo\nthree").stdout.strip() == completion_id
    other = run_rlm(*begin, "--server", server, "another question", stdin=b"one")
    assert (other.returncode, completion_id in other.stderr) == (2, True)
    followed = rlm("completions", "watch", completion_id)
    assert followed.returncode == 0
    assert "0 answer | Lines that count: 1," in followed.stdout
    assert [line.split()[0] for line in rlm("completions", "list", "--label", "team=a").stdout.splitlines()] == [
        completion_id
    ]
    described = rlm("completions", "get", completion_id).stdout
    assert "SUCCEEDED team=a" in described
    assert "Lines that count: 1," in described
    again = rlm("completions", "resume", completion_id)
    assert (again.returncode, again.stderr) == (
        2,
        "rlm: the completion is SUCCEEDED: only a parked one can be resumed\n",
    )
    assert rlm("completions", "delete", completion_id).returncode == 0
    gone = rlm("completions", "get", completion_id)
    assert (gone.returncode, "it is not kept any more" in gone.stderr) == (2, True)


def test_what_went_wrong_is_told_to_whoever_follows_and_whoever_asks(run_rlm, server):
    begin = ("complete", "--detach", "--server", server, "--model", "demo-model?fault=400", "--context", "-", "?")
    completion_id = run_rlm(*begin, stdin=b"text").stdout.strip()
    followed = run_rlm("completions", "watch", "--server", server, completion_id)
    assert followed.returncode == 3
    assert followed.stderr.startswith("rlm: MODEL_ERROR: demo-model?fault=400: ")
    assert (
        "\nMODEL_ERROR: demo-model?fault=400: "
        in run_rlm("completions", "get", "--server", server, completion_id).stdout
    )
