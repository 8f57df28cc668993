"""Prices, limits on money, and the last answer, on the command line."""

from __future__ import annotations

import json

PRICED = ("--set", 'models.demo-model.price={"input": 1, "output": 10}', "--sandbox", "local")


def complete(run_rlm, *arguments):
    return run_rlm(
        *("complete", "--context", "-", *PRICED, "--model", "demo-model", *arguments, "Which lines mention `retry`?"),
        stdin=b"timeout = 3\nretry = 5\n",
    )


def test_the_demo_model_can_have_a_price_and_what_it_cost_is_told(run_rlm):
    done = complete(run_rlm, "--json")
    assert done.returncode == 0, done.stderr
    usage = json.loads(done.stdout.splitlines()[-1])["finished"]["usage"]["total"]
    assert int(usage["costMicrodollars"]) == int(usage["inputTokens"]) + 10 * int(usage["outputTokens"])


def test_a_limit_on_money_ends_a_completion_with_exit_code_1(run_rlm):
    done = complete(run_rlm, "--max-cost", "0.001")
    assert done.returncode == 1
    assert "MAX_COST: max_cost_microdollars of 1,000 is reached" in done.stderr


def test_after_a_limit_on_turns_there_is_one_more_call_unless_it_is_turned_off(run_rlm):
    with_it = complete(run_rlm, "--max-iterations", "1")
    assert "turn 2 (the last answer)" in with_it.stdout
    without = complete(run_rlm, "--max-iterations", "1", "--no-answer-at-limit")
    assert with_it.returncode == without.returncode == 1
    assert "the last answer" not in without.stdout
