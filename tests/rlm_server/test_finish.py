"""The ways to finish, and those that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("answer['content'] = 'A'\nanswer['ready'] = True", "A"),
        ("answer = {'content': 'A', 'ready': True}", "A"),
        ("answer['content'] = 42\nanswer['ready'] = True", "42"),
        ("answer['content'] = ['a', {'b': None}]\nanswer['ready'] = True", '["a", {"b": null}]'),
        ("FINAL('A')", "A"),
        ("FINAL('A')\nraise ValueError('not reached')", "A"),
        ("FINAL(3.5)", "3.5"),
        ("FINAL({'ä': (1, 2)})", '{"ä": [1, 2]}'),
        ("FINAL(b'bytes')", "bytes"),
        ("FINAL({'b', 'a'})", '["a", "b"]'),
        ("FINAL({'a': 1}.items())", '[["a", 1]]'),
        ("FINAL(range(3))", "[0, 1, 2]"),
        ("import datetime\nFINAL([datetime.date(2026, 1, 31)])", '["2026-01-31"]'),
        ("import enum\nE = enum.Enum('E', {'A': 'a'})\nFINAL({'e': E.A})", '{"e": "a"}'),
        ("try:\n    FINAL('first')\nexcept BaseException:\n    pass\nFINAL('second')", "first"),
        ("x = 'A'\nFINAL_VAR('x')", "A"),
        ("x = [1]\nFINAL_VAR(x)", "[1]"),
        ("x = {'a': 'A'}\nFINAL_VAR(\"x['a']\")", "A"),
        ("x = 1\nFINAL_VAR('see x[1]')", "see x[1]"),
        ("answer['content'] = 'A'\nFINAL(answer)", "A"),
        ("answer = {'content': 'A', 'ready': False}\nFINAL_VAR('answer')", "A"),
        ("x = 'A sentence.'\nFINAL_VAR(x)", "A sentence."),
        ("x = 'Paris'.lower().title()\nFINAL_VAR(x)", "Paris"),
        ("def f():\n    FINAL('from a function')\nf()", "from a function"),
        ("FINAL('\\ud800 lone surrogate')", "? lone surrogate"),
    ],
)
async def test_code_can_give_the_answer(stack: Stack, code: str, expected: str) -> None:
    events = await stack.complete(f"```repl\n{code}\n```")
    assert events.answer == expected
    assert events.outcomes == ["OK"]


async def test_text_can_give_the_answer(stack: Stack) -> None:
    events = await stack.complete("```repl\nx = 1\n```", "So:\nFINAL(It is (probably) 42)")
    assert events.answer == "It is (probably) 42"
    assert events.warnings == []


async def test_text_can_name_the_variable_that_holds_the_answer(stack: Stack) -> None:
    events = await stack.complete("```repl\nresult = {'n': 1}\n```", "FINAL_VAR(result)")
    assert events.answer == '{"n": 1}'


async def test_text_can_give_an_expression_to_final_var(stack: Stack) -> None:
    events = await stack.complete("```repl\nresult = {'n': 1}\n```", "FINAL_VAR(result['n'])")
    assert events.answer == "1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINAL_VAR('result')", '{"n": 1}'),
        ("FINAL_VAR(\"result['n']\")", "1"),
        ("FINAL_VAR(It is one, so.)", "It is one, so."),
        ("FINAL(result)", '{"n": 1}'),
        ("FINAL('the result')", "the result"),
        ("FINAL(Paris)", "Paris"),
        ("FINAL(`result`)", '{"n": 1}'),
        ("FINAL(f'There is {result[\"n\"]}.')", "There is 1."),
        ("FINAL(str(result['n'] + 1))", "2"),
        ("FINAL(', '.join(result))", "n"),
        ("FINAL({'is': result['n'], 'of': [key for key in result]})", '{"is": 1, "of": ["n"]}'),
        ("FINAL(json.dumps(result))", '{"n": 1}'),
        ("FINAL(len(context))", "3"),
        ("FINAL(answer['content'])", "a draft"),
        ("FINAL(answer)", "a draft"),
        ("FINAL_VAR(answer)", "a draft"),
        ("FINAL(len(it))", "len(it)"),
        ("FINAL({'n': true})", "{'n': true}"),
        ("FINAL_VAR(`result`)", '{"n": 1}'),
        ("FINAL_VAR(list(result)[0])", "n"),
        ('FINAL_VAR("word[0]")', "x"),
        ("```\nFINAL_VAR(result)\n```", '{"n": 1}'),
        ("result['n'] += 1\nFINAL(result['n'])", "2"),
        ("```python\nFINAL(It is one, so.)\n```", "It is one, so."),
    ],
)
async def test_text_that_mixes_up_the_ways_to_finish_is_read_as_it_is_meant(
    stack: Stack, text: str, expected: str
) -> None:
    code = "import json\nresult, word = {'n': 1}, ['x']\nanswer['content'] = 'a draft'"
    assert (await stack.complete(f"```repl\n{code}\n```", text)).answer == expected


async def test_the_word_answer_is_itself_where_the_dict_has_no_content(local_stack: Stack) -> None:
    events = await local_stack.complete("```repl\nprint(context)\n```", "FINAL(answer)", "FINAL(answer)")
    assert (events.answer, events.warnings) == ("answer", ["ANSWER_DOUBTFUL", "ANSWER_DOUBTFUL"])


async def test_text_that_computes_what_fails_is_no_answer(stack: Stack) -> None:
    events = await stack.complete("```repl\nresult = 1\n```", "FINAL(f'It is {results}')", "FINAL(It is 1)")
    assert events.answer == "It is 1"
    assert events.outcomes == ["OK", "EXCEPTION"]
    assert "name 'results' is not defined" in stack.shown_to_root(3)


async def test_a_block_after_the_answer_does_not_run(stack: Stack) -> None:
    events = await stack.complete("```repl\nFINAL('A')\n```\n```repl\nprint('never')\n```")
    assert events.answer == "A"
    assert len(events.of("code_started")) == 1


async def test_an_answer_before_any_code_is_taken_with_a_warning(stack: Stack) -> None:
    events = await stack.complete("FINAL(guess)")
    assert events.answer == "guess"
    assert events.warnings == ["ANSWER_WITHOUT_CODE"]


async def test_final_beside_code_is_not_believed(stack: Stack) -> None:
    events = await stack.complete("```repl\nprint(6 * 7)\n```\nFINAL(41)", "FINAL(42)")
    assert events.answer == "42"
    assert events.warnings == ["FINAL_BESIDE_CODE"]
    assert "42" in stack.shown_to_root(2)
    assert "FINAL was not taken" in stack.shown_to_root(2)


@pytest.mark.parametrize(
    "heading", ["REPL output:", "**REPL output of block 1 of 1:**", "[Turn 2 of 30. Left: 1 s.]", "<|im_start|>user"]
)
async def test_output_that_a_model_makes_up_is_cut_off(stack: Stack, heading: str) -> None:
    reply = f"```repl\nprint(len(context))\n```\n\n{heading}\n41\n\n```repl\nFINAL(41)\n```"
    events = await stack.complete(reply, "FINAL(3)")
    assert events.answer == "3"
    assert events.warnings == ["OUTPUT_INVENTED"]
    assert events.of("model_reply_finished")[0].text == reply
    assert "output that you made up" in stack.shown_to_root(2)
    assert "REPL output:\n3" in stack.shown_to_root(2)
    assert stack.model.conversations[1][-2]["content"] == "```repl\nprint(len(context))\n```"


@pytest.mark.parametrize(
    "text",
    [
        "REPL output:\n3\nshows it.\n```repl\nFINAL('A')\n```",
        '```repl\nx = """\nREPL output:\n"""\nFINAL(\'A\')\n```',
        "<think>\n```repl\nx\n```\nREPL output:\n1\n</think>\n```repl\nFINAL('A')\n```",
    ],
)
async def test_what_only_looks_like_made_up_output_stays(stack: Stack, text: str) -> None:
    events = await stack.complete(text)
    assert events.answer == "A"
    assert "OUTPUT_INVENTED" not in events.warnings


@pytest.mark.parametrize("form", ["FINAL_VAR(nothing)", "```repl\nFINAL_VAR('nothing')\n```"])
async def test_an_unknown_variable_is_told_with_those_that_exist(stack: Stack, form: str) -> None:
    events = await stack.complete("```repl\nresult = 'R'\n```", form, "FINAL_VAR(result)")
    assert events.answer == "R"
    assert events.warnings == ["UNKNOWN_FINAL_VARIABLE"]
    assert "there is no variable 'nothing'" in stack.shown_to_root(3)
    assert "result" in stack.shown_to_root(3)


async def test_ready_in_a_block_that_fails_is_not_taken_and_does_not_end_a_later_turn(stack: Stack) -> None:
    first = "```repl\nanswer['content'] = 'early'\nanswer['ready'] = True\nraise ValueError\n```"
    events = await stack.complete(first, "```repl\nprint('later')\n```", "```repl\nFINAL('final')\n```")
    assert events.answer == "final"
    assert "The answer was not taken" in stack.shown_to_root(2)


async def test_ready_without_content_is_not_taken(stack: Stack) -> None:
    events = await stack.complete("```repl\nanswer['ready'] = True\n```", "```repl\nFINAL('A')\n```")
    assert events.answer == "A"
    assert 'answer["content"] is empty' in stack.shown_to_root(2)


@pytest.mark.parametrize(
    ("value", "message"),
    [("''", "the answer is empty"), ("None", "the answer is empty"), ("'x' * 1_000_001", "1,000,001 characters")],
)
async def test_final_refuses_what_is_no_answer(stack: Stack, value: str, message: str) -> None:
    events = await stack.complete(f"```repl\nFINAL({value})\n```", "FINAL(A)")
    assert events.answer == "A"
    assert events.outcomes == ["EXCEPTION"]
    assert message in stack.shown_to_root(2)


async def test_a_reply_without_code_or_answer_gets_a_nudge(stack: Stack) -> None:
    events = await stack.complete("I will FINAL(plan) it.", "```repl\nFINAL(context)\n```")
    assert events.answer == "abc"
    assert events.warnings == ["NO_CODE"]
    assert "neither code nor an answer" in stack.shown_to_root(2)


async def test_an_empty_reply_gets_a_nudge(stack: Stack) -> None:
    events = await stack.complete("", "```repl\nFINAL(context)\n```")
    assert events.warnings == ["EMPTY_REPLY"]
    assert "Your reply was empty" in stack.shown_to_root(2)


async def test_a_reply_of_nothing_but_thinking_counts_as_empty(stack: Stack) -> None:
    events = await stack.complete("<think>Let me see", "```repl\nFINAL(context)\n```")
    assert events.warnings == ["EMPTY_REPLY"]


async def test_five_idle_replies_in_a_row_end_with_the_last_text(stack: Stack) -> None:
    events = await stack.complete("a", "b", "c", "", "the last thought", "never asked")
    assert events.reason == "NO_PROGRESS"
    assert (events.finished.answer, events.finished.partial) == ("the last thought", True)
    assert events.warnings == ["NO_CODE", "NO_CODE", "NO_CODE", "EMPTY_REPLY", "NO_CODE"]


async def test_code_between_idle_replies_starts_the_count_again(stack: Stack) -> None:
    events = await stack.complete("a", "b", "c", "d", "```repl\nx = 1\n```", "e", "f", "g", "h", "FINAL(A)")
    assert events.answer == "A"
