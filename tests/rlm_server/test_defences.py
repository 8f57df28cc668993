"""What models do wrong, and what is done about it. `test_failure_modes.py` is the index of these and other tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.engine.answers.answer import is_no_answer
from rlm_server.models.profile import ModelProfile

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages, ScriptedModel

LOOK = "```repl\nprint(context)\n```"


def policy(code: str, sub: Any, *, child: str = "", finish: bool = True) -> Any:
    """Returns a script: the root runs the code, then answers `done` or runs it again; sub-calls get `sub(prompt)`."""

    def reply(messages: Messages) -> Any:
        if messages[0]["role"] != "system":
            return sub(messages[0]["content"])
        if child and "What is it?" not in messages[1]["content"]:
            return child
        return "FINAL(done)" if finish and len(messages) > 2 else f"```repl\n{code}\n```"

    return reply


def fail_on(word: str) -> Any:
    return lambda prompt: ScriptedReply(status=400) if word in prompt else prompt.upper()


# --- an answer before any look at the context


@pytest.mark.parametrize(
    "first", ["FINAL(guess)", "```repl\nFINAL('guess')\n```", "```repl\nx = 'guess'\nFINAL(x)\n```"]
)
async def test_an_answer_without_a_look_is_taken_with_a_warning(stack: Stack, first: str) -> None:
    events = await stack.complete(first)
    assert events.answer == "guess"
    assert events.warnings == ["ANSWER_WITHOUT_CODE"]


@pytest.mark.parametrize("code", ["FINAL(context[0])", "FINAL(len(context))", "FINAL(llm_query('what?'))"])
async def test_an_answer_from_code_that_looks_is_taken_without_a_warning(stack: Stack, code: str) -> None:
    assert (await stack.complete(f"```repl\n{code}\n```", "a reply")).warnings == []


@pytest.mark.parametrize("first", ["FINAL(guess)", "```repl\nFINAL('guess')\n```", "```repl\nFINAL(6 * 7)\n```"])
async def test_an_answer_without_a_look_is_refused_if_the_request_says_so(stack: Stack, first: str) -> None:
    events = await stack.complete(first, LOOK, "FINAL(seen)", look_required=True)
    assert events.answer == "seen"
    assert events.warnings == ["ANSWER_WITHOUT_CODE"]
    assert "no code has looked at the context yet" in stack.shown_to_root(2)


async def test_a_look_can_be_required_by_the_server_and_waived_by_the_request(serve: Any) -> None:
    async with serve(look_required=True) as stack:
        assert (await stack.complete("FINAL(guess)", LOOK, "FINAL(seen)")).answer == "seen"
        assert (await stack.complete("FINAL(guess)", look_required=False)).answer == "guess"


async def test_answers_that_are_refused_again_and_again_end_with_the_last_of_them(local_stack: Stack) -> None:
    events = await local_stack.complete(*[f"FINAL(guess {n})" for n in range(9)], look_required=True)
    assert (events.reason, events.finished.answer, events.finished.partial) == ("NO_PROGRESS", "guess 4", True)


# --- a plan, or a placeholder, as the answer

PLANS = [
    "I will first look at the context and then count the lines.",
    "I'll start by printing the first 500 characters.",
    "Let me search the documents for the name.",
    "First, I need to examine the structure of the context.",
    "Okay, let's split the text into chunks and query a sub-model for each.",
    "To answer this, I will go through each chapter.",
    "Plan: 1. look 2. search 3. answer",
    "My plan is to read all files.",
    "**Step 1:** Inspect the data.",
    "We need to analyze the log first.",
    "Now I'm going to run the batch.",
    "I'm now going to run the batch.",
    "Here's my plan:\n1. Load the text.",
    "**Plan**: search, then count",
    "Approach: read all of it",
    "My approach will be to split the document.",
    "I am going to use llm_query on each line.",
    "I would start by searching for the term.",
    "The next step is to run the code.",
    "I need more information before I can answer.",
    "Let me think step by step.",
]
PLACEHOLDERS = ["your answer", "<your answer>", "...", "[answer]", "final answer", "TODO", "final_answer", "See above"]
ANSWERS = [
    "42",
    "I will always love you",
    "Let me not to the marriage of true minds",
    "The plan was to attack at dawn.",
    "The plan raises prices by 3 %.",
    "The next steps are to sign the contract and to pay.",
    "Looking at the documents, the fee is 3 %.",
    "We should review the contract.",
    "First, the fee rose; then it fell.",
    "He said that he would look for it.",
    "I need a doctor!",
    "Step by step, the author builds her case.",
    "None",
    "n/a",
    "The answer is 4.",
    "We will fight on the beaches.",
    "To be, or not to be",
    "",
]


@pytest.mark.parametrize("text", PLANS + PLACEHOLDERS)
def test_it_is_no_answer(text: str) -> None:
    assert is_no_answer(text) == ("a plan" if text in PLANS else "a placeholder")


@pytest.mark.parametrize("text", [*ANSWERS, "I will look. " + "It is long. " * 400])
def test_it_is_an_answer(text: str) -> None:
    assert not is_no_answer(text)


@pytest.mark.parametrize("form", ["FINAL(Let me read the files.)", "```repl\nFINAL('Let me read the files.')\n```"])
async def test_a_plan_is_not_taken_and_the_model_goes_on(stack: Stack, form: str) -> None:
    events = await stack.complete(LOOK, form, "FINAL(42)")
    assert events.answer == "42"
    assert events.warnings == ["ANSWER_DOUBTFUL"]
    assert "it reads like a plan" in stack.shown_to_root(3)


async def test_what_only_reads_like_a_plan_is_taken_when_it_is_given_again(local_stack: Stack) -> None:
    events = await local_stack.complete(LOOK, "FINAL(Let me look.)", "FINAL(Let me look.)")
    assert events.answer == "Let me look."
    assert events.warnings == ["ANSWER_DOUBTFUL", "ANSWER_DOUBTFUL"]


async def test_a_plan_in_the_last_turn_is_not_lost(local_stack: Stack) -> None:
    limits = limits_pb2.Limits(max_iterations=2)
    assert (await local_stack.complete(LOOK, "FINAL(Let me look.)", limits=limits)).answer == "Let me look."


async def test_a_plan_is_the_partial_answer_when_nothing_better_follows(local_stack: Stack) -> None:
    limits = limits_pb2.Limits(max_iterations=2)
    events = await local_stack.complete("FINAL(Let me look.)", LOOK, limits=limits)
    assert (events.reason, events.finished.answer) == ("MAX_ITERATIONS", "Let me look.")


@pytest.mark.parametrize("form", ["FINAL(...)", "```repl\nFINAL('Let me look.')\n```"])
async def test_what_is_no_answer_does_not_take_the_place_of_a_draft(stack: Stack, form: str) -> None:
    limits = limits_pb2.Limits(max_iterations=3)
    draft = "```repl\nanswer['content'] = context + '!'\n```"
    events = await stack.complete(draft, form, "```repl\nx = 1\n```", limits=limits)
    assert (events.reason, events.finished.answer) == ("MAX_ITERATIONS", "abc!")


# --- running in circles


async def test_code_that_is_repeated_is_told_and_ends_the_completion(stack: Stack) -> None:
    events = await stack.play(lambda _: "```repl\nprint(len(context))\n```")
    assert (events.reason, events.finished.iterations) == ("NO_PROGRESS", 6)
    assert events.warnings == [*["NO_PROGRESS"] * 5, "NO_LAST_ANSWER"]
    assert "running it again will not help" in stack.shown_to_root(3)
    assert "After 1 more such turns" in stack.shown_to_root(6)


async def test_a_model_that_repeats_itself_is_asked_for_its_best_answer(stack: Stack) -> None:
    events = await stack.complete(*["```repl\nprint(len(context))\n```"] * 6, "There are 3 characters.")
    assert (events.reason, events.finished.answer) == ("NO_PROGRESS", "There are 3 characters.")
    assert events.finished.partial
    assert "5 turns in a row ran code that had run before" in stack.model.conversations[-1][-1]["content"]


async def test_a_cycle_of_two_is_seen_as_well(local_stack: Stack) -> None:
    replies = ["```repl\nprint(1)\n```", "```repl\nprint(2)\n```"] * 5
    events = await local_stack.complete(*replies)
    assert (events.reason, events.finished.iterations) == ("NO_PROGRESS", 7)


async def test_an_error_that_is_repeated_is_no_progress_though_its_cell_has_another_number(local_stack: Stack) -> None:
    events = await local_stack.complete(*["```repl\n1 / 0\n```"] * 9)
    assert (events.reason, events.finished.iterations) == ("NO_PROGRESS", 6)


@pytest.mark.parametrize(
    "code",
    ["n = globals().get('n', 0) + 1\nprint(n)", "n = globals().get('n', 0) + 1\nreply = llm_query(str(n))"],
    ids=["other output", "other prompts"],
)
async def test_the_same_code_makes_progress_as_long_as_something_differs(local_stack: Stack, code: str) -> None:
    limits = limits_pb2.Limits(max_iterations=9)
    events = await local_stack.play(policy(code, str, finish=False), limits=limits, answer_at_limit=False)
    assert events.reason == "MAX_ITERATIONS"
    assert events.warnings == []


async def test_identical_sub_calls_in_identical_code_are_no_progress(local_stack: Stack) -> None:
    events = await local_stack.play(policy("reply = llm_query('again')", str, finish=False))
    assert events.reason == "NO_PROGRESS"
    assert events.finished.usage.subcall_count == 6


async def test_something_new_starts_the_count_again(local_stack: Stack) -> None:
    same = ["```repl\nprint(1)\n```"] * 4
    events = await local_stack.complete(*same, "```repl\nprint(2)\n```", *same, "FINAL(A)")
    assert events.answer == "A"


async def test_comments_and_blanks_do_not_make_other_code_of_it(stack: Stack) -> None:
    variants = [f"# try {n}\nprint( len(context),{' ' * n}'(' )  # once more" for n in range(9)]
    events = await stack.complete(*[f"```repl\n{code}\n```" for code in variants])
    assert (events.reason, events.finished.iterations) == ("NO_PROGRESS", 6)


async def test_other_code_that_shows_nothing_new_is_told_and_goes_on(stack: Stack) -> None:
    turns = [f"x{n} = {n}\nprint(len(context))" for n in range(8)] + ["x = 1"] + ["print('new')", "print(len(context))"]
    events = await stack.complete(*[f"```repl\n{code}\n```" for code in turns], "FINAL(A)")
    assert (events.answer, events.warnings) == ("A", ["NO_PROGRESS"] * 2)
    assert "The last 3 turns showed you nothing that you had not been shown before" in stack.shown_to_root(5)
    assert "showed you nothing" not in stack.shown_to_root(6)
    assert "The last 6 turns" in stack.shown_to_root(8)


async def test_turns_that_ask_or_show_nothing_are_not_held_against_the_model(local_stack: Stack) -> None:
    turns = [f"x = {n}" for n in range(5)] + [f"llm_query('{n}')\nprint(1)" for n in range(5)]
    script = [f"```repl\n{code}\n```" for code in turns]
    events = await local_stack.play(
        lambda messages: script[len(messages) // 2 - 1] if messages[0]["role"] == "system" else "r",
        limits=limits_pb2.Limits(max_iterations=10),
        answer_at_limit=False,
    )
    assert (events.reason, events.warnings) == ("MAX_ITERATIONS", [])


# --- storms of sub-calls


@pytest.mark.parametrize("call", ["llm_query('a')", "rlm_query('a')", "await llm_query_async('a')"])
async def test_a_block_that_asks_on_and_on_after_refusals_is_ended_with_few_events(stack: Stack, call: str) -> None:
    code = f"while True:\n    try:\n        {call}\n    except Exception:\n        pass"
    limits = limits_pb2.Limits(max_subcalls=2, max_depth=0)
    events = await stack.play(policy(code, str), limits=limits)
    assert (events.answer, events.outcomes) == ("done", ["EXCEPTION"])
    assert events.warnings.count("SUBCALL_REFUSED") == 6
    messages = [one.message for one in events.of("warning")]
    assert messages[-1] == "there would have been 196 more warnings like this of the block"
    assert "SubcallStormError: more than 200 sub-calls of this block were refused" in stack.shown_to_root(2)


async def test_the_next_block_can_be_refused_anew(local_stack: Stack) -> None:
    code = (
        "for _ in range(150):\n    try:\n        llm_query('a')\n    except Exception:\n        pass\nprint(globals())"
    )
    limits = limits_pb2.Limits(max_subcalls=0)
    events = await local_stack.complete(*[f"```repl\n{code}\n```"] * 3, "FINAL(A)", limits=limits)
    assert (events.answer, events.outcomes) == ("A", ["OK"] * 3)
    assert events.warnings.count("SUBCALL_REFUSED") == 18


async def test_a_storm_of_prompts_that_are_too_large_is_told_with_few_events(local_stack: Stack) -> None:
    code = "for _ in range(50):\n    llm_query_batched(['x' * 200])"
    limits = limits_pb2.Limits(max_subcall_prompt_chars=100)
    events = await local_stack.play(policy(code, str), limits=limits)
    assert events.warnings == ["PROMPT_TOO_LARGE"] * 6
    assert events.of("warning")[-1].message.startswith("there would have been 45 more warnings")


# --- prompts that are too large


async def test_a_giant_prompt_is_refused_with_a_hint_before_it_costs_anything(stack: Stack) -> None:
    code = (
        "rs = llm_query_batched(['short', 'x' * 101, 'y' * 102])\nprint(rs[0], rs[1].kind, rs[1].message)\n"
        "try:\n    llm_query('x' * 101)\nexcept SubcallError as e:\n    print(e.kind)"
    )
    limits = limits_pb2.Limits(max_subcall_prompt_chars=100)
    events = await stack.play(policy(code, str.upper), limits=limits)
    assert events.output.startswith(
        "SHORT prompt_too_large the prompt has 101 characters, and at most 100 are sent; nothing was asked. Select what"
    )
    assert events.output.endswith("prompt_too_large\n")
    assert events.warnings == ["PROMPT_TOO_LARGE", "PROMPT_TOO_LARGE"]
    assert "(1 more prompt likewise)" in events.of("warning")[0].message
    assert events.finished.usage.subcall_count == 1


async def test_what_becomes_a_childs_context_may_be_larger_and_its_question_may_not(local_stack: Stack) -> None:
    code = (
        "print(rlm_query('x' * 101))\nprint(rlm_query('q', context='x' * 101))\n"
        "print(rlm_query_batched(['x' * 101], contexts=['c'])[0].message[-80:])"
    )
    limits = limits_pb2.Limits(max_subcall_prompt_chars=100)
    script = policy(code, str, child="```repl\nFINAL(len(context))\n```")
    events = await local_stack.play(script, limits=limits)
    assert events.output.splitlines()[:2] == ["101", "101"]
    assert events.output.endswith("as context=..., and as the prompt only what is to be done with it\n")


async def test_beyond_the_greatest_depth_the_context_counts_as_it_is_put_into_the_prompt(local_stack: Stack) -> None:
    limits = limits_pb2.Limits(max_subcall_prompt_chars=100, max_depth=0)
    code = "print(rlm_query_batched(['q'], contexts=['x' * 100])[0].kind)"
    assert (await local_stack.play(policy(code, str), limits=limits)).output == "prompt_too_large\n"


# --- names of the REPL that code rebinds


@pytest.mark.parametrize("code", ["context = 'mine'", "for context in ['other', 'mine']: pass", "del context"])
async def test_a_context_that_is_rebound_is_put_back_and_the_model_told(stack: Stack, code: str) -> None:
    events = await stack.complete(
        f"```repl\nprint(context)\n{code}\n```", "```repl\nFINAL((context, globals().get('context_new')))\n```"
    )
    assert events.answer == ('["abc", null]' if code.startswith("del") else '["abc", "mine"]')
    assert events.warnings == ["NAME_RESTORED"]
    assert "Your code rebound `context`" in stack.shown_to_root(2)


async def test_functions_that_are_rebound_are_put_back_also_by_code_that_fails(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\ncontext\nllm_query = print\nFINAL = None\n1 / 0\n```", "```repl\nFINAL(llm_query('x'))\n```", "sub"
    )
    assert events.answer == "sub"
    assert events.warnings == ["NAME_RESTORED"]
    assert "`FINAL`, `llm_query`" in stack.shown_to_root(2)


@pytest.mark.parametrize("code", ["answer = 'mine'", "del answer", "globals().pop('answer')", "class answer: pass"])
async def test_an_answer_that_is_no_dict_any_more_is_put_back_and_the_model_told(stack: Stack, code: str) -> None:
    events = await stack.complete(
        f"```repl\nprint(context)\nanswer['content'] = 'draft'\n{code}\n```",
        "```repl\nFINAL((answer, globals().get('answer_new') == 'mine'))\n```",
    )
    assert json.loads(events.answer) == [{"content": "draft", "ready": False}, code == "answer = 'mine'"]
    assert events.warnings == ["NAME_RESTORED"]
    assert "Your code rebound `answer`" in stack.shown_to_root(2)


async def test_what_is_the_engines_own_is_not_among_the_names_that_are_told(stack: Stack) -> None:
    await stack.complete("```repl\nprint(context)\nglobals().clear()\n```", "FINAL(A)")
    assert "`budget`, " in stack.shown_to_root(2)
    assert "`_" not in stack.shown_to_root(2).replace("`_new`", "")


async def test_setting_or_rebinding_answer_is_no_offence(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nanswer = {'content': context, 'ready': False}\n```", "```repl\nanswer['ready'] = True\n```"
    )
    assert (events.answer, events.warnings) == ("abc", [])


# --- inputs that are changed in place

DOCUMENTS = [{"id": f"{number}.txt", "text": "abc", "metadata": {"n": number}} for number in range(100)]


def json_part(value: object, name: str = "") -> pb.ContextPart:
    return pb.ContextPart(name=name, json=json.dumps(value))


@pytest.mark.parametrize(
    "code",
    [
        "context.append({})",
        "del context[0]",
        "context.pop()",
        "context.reverse()",
        "context.sort(key=lambda one: -one['metadata']['n'])",
        "context[70] = None",
        "context[:] = context[:50]",
        "context.clear()",
        "context[0]['text'] = ''",
        "context[0]['metadata']['n'] = 1",
        "for one in context: one['seen'] = True",
        "context[0]['self'] = context",
    ],
)
async def test_an_input_that_is_changed_in_place_is_told(stack: Stack, code: str) -> None:
    events = await stack.complete(
        f"```repl\nlen(context)\n{code}\n```",
        "```repl\nFINAL(len(context))\n```",
        contexts=[json_part(DOCUMENTS)],
    )
    assert events.warnings == ["INPUT_CHANGED"]
    assert "Your code changed `context` in place" in stack.shown_to_root(2)


@pytest.mark.parametrize("value", [{"a": 1, "b": [1]}, {str(number): number for number in range(20_000)}])
@pytest.mark.parametrize("code", ["context['a'] = 2", "del context['b']", "context.update(b=3)", "context |= {'c': 4}"])
async def test_so_is_a_dict_that_is_changed(stack: Stack, code: str, value: dict[str, object]) -> None:
    context = {"a": 1, "b": [1]} | value
    events = await stack.complete(f"```repl\n{code}\nlen(context)\n```", "FINAL(done)", contexts=[json_part(context)])
    assert events.warnings == ["INPUT_CHANGED"]


@pytest.mark.parametrize("code", ["context.append(1)", "del context[7]", "context.reverse()", "context[0] = 'x'"])
async def test_a_very_large_list_is_compared_by_its_length_and_a_sample(stack: Stack, code: str) -> None:
    events = await stack.complete(
        f"```repl\nlen(context)\n{code}\n```", "FINAL(done)", contexts=[json_part(list(range(30_000)))]
    )
    assert events.warnings == ["INPUT_CHANGED"]


async def test_a_part_that_is_changed_is_told_by_its_name(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\ncontext['b'].append(len(context['a']))\n```",
        "```repl\ncontext['c'] = 1\n```",
        "FINAL(done)",
        contexts=[json_part([1], "a"), json_part([2], "b")],
    )
    assert [one.message for one in events.of("warning")] == [
        "code has changed b in place, which stays so",
        "code has changed context in place, which stays so",
    ]


async def test_a_change_in_place_is_told_once(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\ncontext.append(4)\n```",
        "```repl\nprint(sum(context))\n```",
        "```repl\ncontext.append(5)\n```",
        "FINAL(done)",
        contexts=[json_part([1, 2, 3])],
    )
    assert events.warnings == ["INPUT_CHANGED"] * 2


@pytest.mark.parametrize(
    "code",
    [
        "mine = list(context); mine.append(1)",
        "import copy; mine = copy.deepcopy(context); mine[0]['text'] = 'x'",
        "mine = sorted(context, key=lambda one: one['id'], reverse=True)",
        "context[0] = dict(context[0])",
    ],
)
async def test_work_on_copies_is_no_change(stack: Stack, code: str) -> None:
    events = await stack.complete(f"```repl\nlen(context)\n{code}\n```", "FINAL(done)", contexts=[json_part(DOCUMENTS)])
    assert events.warnings == []


async def test_a_value_that_cannot_be_compared_is_a_change(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nclass Odd:\n    def __eq__(self, other): raise ValueError\ncontext[0] = Odd()\n```",
        "FINAL(done)",
        contexts=[json_part([1, 2])],
    )
    assert events.warnings == ["INPUT_CHANGED"]


# --- failed sub-calls that could pass for text


@pytest.mark.parametrize(
    "use",
    [
        "'\\n'.join(rs)",
        "'\\n'.join(str(r) for r in rs)",
        "'\\n'.join(f'{n}: {r}' for n, r in enumerate(rs))",
        "'%s and %s' % tuple(rs)",
        "'{} and {}'.format(*rs)",
        "rs[0] + rs[1]",
        "[r.strip() for r in rs]",
        "[r[:10] for r in rs]",
        "[r for r in rs if 'yes' in r]",
        "import json; json.dumps(rs)",
        "llm_query(rs[1])",
        "llm_query(rs)",
        "llm_query({'replies': rs})",
        "rlm_query('sum up', context=rs)",
        "FINAL(rs[1])",
        "FINAL(rs)",
        "FINAL({'a': rs})",
        "FINAL_VAR('rs')",
        "print(rs[1])",
    ],
)
async def test_an_error_value_does_not_pass_for_text(local_stack: Stack, use: str) -> None:
    code = f"context\nrs = llm_query_batched(['a', 'bad'])\n{use}"
    events = await local_stack.play(policy(code, fail_on("bad")))
    assert events.outcomes[0] == "EXCEPTION"
    assert "Error" in local_stack.shown_to_root(2)


@pytest.mark.parametrize("answer", ["FINAL(rs[1])", "FINAL({'a': rs})"])
async def test_an_error_value_that_was_raised_before_is_no_answer_either(local_stack: Stack, answer: str) -> None:
    replies = iter(["context\nrs = llm_query_batched(['a', 'bad'])\nprint(rs[1])", answer, answer, "FINAL('done')"])

    def script(messages: Messages) -> ScriptedReply | str:
        if messages[0]["role"] != "system":
            return ScriptedReply(status=400)
        return f"```repl\n{next(replies)}\n```"

    events = await local_stack.play(script)
    assert (events.answer, events.outcomes) == ("done", ["EXCEPTION"] * 3 + ["OK"])


async def test_an_error_value_in_answer_is_not_taken(stack: Stack) -> None:
    code = "context\nrs = llm_query_batched(['a', 'bad'])\nanswer['content'] = rs\nanswer['ready'] = True"
    events = await stack.play(policy(code, fail_on("bad")))
    assert events.answer == "done"
    assert 'answer["content"] cannot be given: SubcallError' in stack.shown_to_root(2)


async def test_an_error_value_can_be_looked_at_told_apart_and_raised(stack: Stack) -> None:
    code = (
        "rs = llm_query_batched(['a', 'bad'])\nprint(rs, [r for r in rs if r])\n"
        "try:\n    llm_query('bad')\nexcept SubcallError as e:\n    print(f'{e}'[:7], str(e)[:7])\n"
        "try:\n    raise rs[1]\nexcept SubcallError as e:\n    print(str(e)[:7])"
    )
    events = await stack.play(policy(code, fail_on("bad")))
    assert events.output.startswith("['A', SubcallError(")
    assert events.output.endswith(" ['A']\nError:  Error: \nError: \n")


async def test_a_sub_call_that_has_only_begun_is_no_text_either(local_stack: Stack) -> None:
    await local_stack.play(policy("context\nFINAL(llm_query_async('a'))", str))
    assert "TypeError: this is a sub-call that has begun, not its reply" in local_stack.shown_to_root(2)


async def test_variables_whose_names_are_no_texts_do_no_harm(stack: Stack) -> None:
    events = await stack.complete("```repl\ncontext\nglobals()[1] = 2\nFINAL_VAR('nothing')\n```", "FINAL(A)")
    assert events.answer == "A"
    assert events.warnings == ["UNKNOWN_FINAL_VARIABLE"]


# --- values that are no answers


@pytest.mark.parametrize("value", ["len", "lambda: 1", "dict", "json", "'x'.upper"])
async def test_a_function_or_module_is_no_answer(local_stack: Stack, value: str) -> None:
    events = await local_stack.complete(f"```repl\nimport json\ncontext\nFINAL({value})\n```", "FINAL(A)")
    assert events.answer == "A"
    assert "not a value; give what it returns or holds" in local_stack.shown_to_root(2)


async def test_dataclasses_and_sets_are_answers_in_json(stack: Stack) -> None:
    code = "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\ncontext\nFINAL({'p': P(1), 's': {3, 2}})"
    assert (await stack.complete(f"```repl\n{code}\n```")).answer == '{"p": {"x": 1}, "s": [2, 3]}'


# --- replies that are all thinking


async def test_a_reply_cut_off_while_thinking_gets_a_nudge_of_its_own(local_stack: Stack) -> None:
    cut = ScriptedReply("", reasoning="hm, hm", stop_reason="length")
    events = await local_stack.complete(cut, ScriptedReply("<think>hm", stop_reason="length"), LOOK, "FINAL(A)")
    assert events.answer == "A"
    assert events.warnings == ["REPLY_TRUNCATED", "EMPTY_REPLY"] * 2
    for turn in (2, 3):
        assert "thinking used up the limit on its length" in local_stack.shown_to_root(turn)


async def test_a_sub_model_that_only_thinks_fails_and_says_why(local_stack: Stack) -> None:
    code = "print(llm_query_batched(['x']))"
    events = await local_stack.play(policy(code, lambda _: ScriptedReply("", reasoning="hm", stop_reason="length")))
    assert "empty_reply" in events.output
    assert "thinking used up the limit on its length" in events.output


async def test_nudges_count_down(local_stack: Stack) -> None:
    await local_stack.complete("a", "", "FINAL(A)")
    assert "After 4 more such replies in a row you are stopped" in local_stack.shown_to_root(2)
    assert "After 3 more such replies in a row you are stopped" in local_stack.shown_to_root(3)


# --- what goes wrong in children


async def test_a_child_that_only_writes_broken_code_is_an_error_for_its_parent(local_stack: Stack) -> None:
    code = "try:\n    rlm_query('p')\nexcept SubcallError as e:\n    print(e.kind)"
    limits = limits_pb2.Limits(max_consecutive_errors=3)
    script = policy(code, str, child="```repl\nx = = 1\n```")
    assert (await local_stack.play(script, limits=limits)).output == "max_errors\n"


async def test_output_before_an_exception_and_before_the_answer_is_kept(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nprint('before', context)\n1 / 0\n```", "```repl\nprint('at the end')\nFINAL('A')\n```"
    )
    assert events.answer == "A"
    assert events.output == "before abc\nat the end\n"
    assert "before abc" in stack.shown_to_root(2)


async def test_a_prompt_that_cannot_fit_the_model_s_known_window_is_refused(model: ScriptedModel) -> None:
    code = "context\nprint([getattr(r, 'kind', 'ok') for r in llm_query_batched(['x' * 500, 'x' * 501])])"
    profiles = {"sub-model": ModelProfile(window_tokens=100)}
    async with running_stack(model, models=profiles) as stack:
        events = await stack.play(policy(code, lambda _: "ok"))
    assert events.output == "['ok', 'prompt_too_large']\n"
