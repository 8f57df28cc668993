"""What code in the REPL can do, and what the model is shown of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rlm_api.rlm.v1 import limits_pb2

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack


async def test_variables_imports_and_functions_live_from_turn_to_turn(stack: Stack) -> None:
    define = "```repl\nimport math\nx = 4\ndef f(n):\n    return math.isqrt(n) * x\n```"
    events = await stack.complete(define, "```repl\nFINAL(f(9))\n```")
    assert events.answer == "12"


async def test_variables_assigned_before_an_exception_are_kept(stack: Stack) -> None:
    events = await stack.complete("```repl\nx = 1\ny = 1 / 0\n```", "```repl\nFINAL(x)\n```")
    assert events.answer == "1"
    assert events.outcomes == ["EXCEPTION", "OK"]


async def test_the_value_of_the_last_expression_is_shown(stack: Stack) -> None:
    events = await stack.run_code("x = 'a'\nx")
    assert events.output == "'a'\n"
    assert "'a'" in stack.shown_to_root(2)


async def test_a_block_without_output_says_so(stack: Stack) -> None:
    await stack.run_code("x = 1")
    assert "(no output" in stack.shown_to_root(2)


async def test_an_exception_is_told_with_its_traceback_and_what_was_printed_before(stack: Stack) -> None:
    events = await stack.run_code("print('before')\ndef f():\n    return 1 / 0\nf()")
    (finished,) = events.of("code_finished")
    assert (finished.error_type, finished.error_message) == ("ZeroDivisionError", "division by zero")
    assert "return 1 / 0" in finished.traceback
    shown = stack.shown_to_root(2)
    assert shown.index("before") < shown.index("Traceback") < shown.index("ZeroDivisionError")


async def test_a_syntax_error_is_told(stack: Stack) -> None:
    events = await stack.run_code("for")
    assert events.outcomes == ["EXCEPTION"]
    assert "SyntaxError" in stack.shown_to_root(2)


async def test_later_blocks_do_not_run_after_an_error(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\n1 / 0\n```\n```repl\nprint('two')\n```\n```repl\nprint('three')\n```", "FINAL(x)"
    )
    assert events.outcomes == ["EXCEPTION"]
    assert "2 later blocks of the reply did not run" in stack.shown_to_root(2)


async def test_stderr_is_told_apart_and_shown(stack: Stack) -> None:
    events = await stack.run_code("import sys\nprint('out')\nprint('err', file=sys.stderr)")
    streams = {one.text: one.stream for one in events.of("output")}
    assert streams == {"out\n": 1, "err\n": 2}
    assert "err" in stack.shown_to_root(2)


async def test_long_output_is_cut_in_the_middle_with_the_exact_count(stack: Stack) -> None:
    events = await stack.run_code("print('a' * 1000 + 'b' * 1000)", limits=limits_pb2.Limits(max_output_chars=100))
    (finished,) = events.of("code_finished")
    assert (finished.output_chars, finished.output_chars_hidden) == (2001, 1901)
    assert len(events.output) == 2001
    assert events.warnings == ["OUTPUT_TRUNCATED"]
    assert f"{'a' * 50}\n... [1,901 characters cut] ...\n{'b' * 49}\n" in stack.shown_to_root(2)


async def test_several_blocks_share_what_may_be_shown(stack: Stack) -> None:
    blocks = "\n".join(f"```repl\nprint('{letter}' * {count})\n```" for letter, count in (("a", 9), ("b", 500)))
    events = await stack.complete(blocks, "FINAL(x)", limits=limits_pb2.Limits(max_output_chars=100))
    assert [one.output_chars_hidden for one in events.of("code_finished")] == [0, 501 - 90]


async def test_show_vars_lists_what_the_code_has_made(stack: Stack) -> None:
    events = await stack.run_code("import json\nresult = [1]\n_private = 2\nprint(SHOW_VARS())")
    assert events.output == "context: str\nresult: list\n"


async def test_names_of_the_repl_are_put_back_when_code_rebinds_them(stack: Stack) -> None:
    rebind = "```repl\nllm_query = FINAL = SHOW_VARS = None\n1 / 0\n```"
    events = await stack.complete(rebind, "```repl\nFINAL(callable(llm_query) and callable(SHOW_VARS))\n```")
    assert events.answer == "True"


async def test_exiting_ends_the_block_and_not_the_completion(stack: Stack) -> None:
    events = await stack.complete("```repl\nimport sys\nsys.exit(3)\n```", "```repl\nFINAL('alive')\n```")
    assert events.outcomes[0] == "EXITED"
    assert events.answer == "alive"


async def test_code_that_is_too_long_is_refused_without_running(stack: Stack) -> None:
    events = await stack.run_code(f"x = '{'a' * 1_100_000}'")
    assert events.outcomes == ["EXCEPTION"]
    assert events.of("code_finished")[0].error_type == "CodeTooLongError"


@pytest.mark.parametrize(
    "code", ["print('\\ud800')", "print('\\x00 \\u2028 \\U0001f600')", "raise ValueError('\\udfff')"]
)
async def test_odd_characters_do_no_harm(stack: Stack, code: str) -> None:
    assert (await stack.run_code(code)).answer == "done"


async def test_output_arrives_while_the_code_runs(stack: Stack) -> None:
    events = await stack.complete("```repl\nprint('before')\nllm_query('x')\nprint('after')\n```", "sub", "FINAL(x)")
    kinds = events.kinds()
    assert kinds.index("output") < kinds.index("subcall_started") < len(kinds) - 1 - kinds[::-1].index("output")


async def test_output_beyond_the_limit_stops_the_block(stack: Stack) -> None:
    cell = limits_pb2.CellLimits(output_bytes=1000)
    events = await stack.run_code("while True:\n    print('x' * 99)", limits=limits_pb2.Limits(cell=cell))
    assert events.outcomes == ["OUTPUT_LIMIT"]
    assert len(events.output) <= 1000
    assert events.answer == "done"
