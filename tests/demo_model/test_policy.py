"""The demo model's policy: what it answers for contexts of every shape."""

from __future__ import annotations

import json

import pytest
from rlm_server.demo_model.policy import reply_to
from rlm_server.demo_model.reader import read

from tests.support.mini_repl import SYSTEM, complete

SOURCE = """
from functools import lru_cache  # lru_cache from functools

@lru_cache
def one():
    return "lru_cache"

@functools.lru_cache(maxsize=None)
def two(): ...

cached = lru_cache(3)(two)
"""
DECORATOR_QUERY = "On how many lines is `lru_cache` used as a decorator, and in which files?"


def test_it_looks_then_searches_then_asks_then_answers():
    transcript = []
    complete("Which lines mention `beta`?", "alpha\nbeta", transcript=transcript)
    steps = [line for text in transcript for line in text.splitlines() if line.startswith("# demo-model step")]
    assert [step.split(":")[0] for step in steps] == [f"# demo-model step {number}" for number in (1, 2, 3)]
    assert transcript[-1].endswith("FINAL_VAR(report)")


@pytest.mark.parametrize(
    ("context", "place"),
    [
        ("alpha\nbeta gamma", "context: 2"),
        ([{"id": "a.txt", "text": "alpha"}, {"id": "b.txt", "text": "x\nbeta"}], "b.txt: 2"),
        ([{"path": "b.txt", "text": "beta", "metadata": {}}], "b.txt: 1"),
        ({"spec": "alpha", "notes": "beta"}, "notes: 1"),
        ({"people": [{"name": "beta", "age": 3}]}, "people[0]: 1"),
        ({"deep": {"er": {"name": "beta"}}}, "deep.er: 1"),
        (["alpha", "beta"], "[1]: 1"),
        ({"count": 3, "flag": None, "name": "beta"}, "name: 1"),
    ],
    ids=["text", "documents by id", "documents by path", "parts", "records", "nested", "list of texts", "scalars"],
)
def test_it_finds_a_quoted_term_in_a_context_of_any_shape(context, place):
    report = complete("Which lines mention `beta`?", context)
    assert report.startswith("Lines that count: 1, in 1 files or texts:")
    assert place in report.splitlines()


def test_without_quoted_terms_it_searches_for_the_rarest_words():
    haystack = "the number of the day\n" * 500 + "The secret number of the vault is 4711.\n" + "numbers\n" * 20
    assert "The secret number of the vault is 4711." in complete("What is the secret number of the vault?", haystack)


def test_it_says_so_when_nothing_is_found():
    assert complete("Which lines mention `zeta`?", "alpha").startswith("Lines that count: 0")


def test_it_says_that_it_is_no_language_model():
    assert "a fixed program that stands in for a language model" in complete("Which lines mention `beta`?", "beta")


def test_a_large_group_of_documents_goes_to_a_child():
    documents = [{"id": f"lib/{n}.py", "text": "@lru_cache"} for n in range(12)] + [{"id": "x.py", "text": SOURCE}]
    transcript = []
    report = complete(DECORATOR_QUERY, documents, transcript=transcript)
    assert report.startswith("Lines that count: 14, in 13 files or texts:")
    assert any("12 lines of 'lib' to a child" in text for text in transcript)
    assert any('answer["ready"] = True' in text for text in transcript)


def test_where_children_are_plain_model_calls_the_answer_is_the_same():
    documents = [{"id": f"lib/{n}.py", "text": SOURCE} for n in range(12)] + [{"id": "x.py", "text": SOURCE}]
    assert complete(DECORATOR_QUERY, documents) == complete(DECORATOR_QUERY, documents, recursive=False)


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("How many lines use `lru_cache` as a decorator?", [4, 8]),
        ("Which lines import `lru_cache`?", [2]),
        ("Where is `lru_cache` called?", [8, 11]),
        ("Which comments name `lru_cache`?", [2]),
        ("Where is `two` defined?", [9]),
        ("Which lines mention `lru_cache`?", [2, 4, 6, 8, 11]),
        ("How many lines use `lru_cache`?", [2, 4, 8, 11]),
    ],
)
def test_lines_are_judged_by_what_the_question_asks(query, lines):
    report = complete(query, [{"id": "m.py", "text": SOURCE}])
    assert f"m.py: {', '.join(map(str, lines))}" in report.splitlines()


def test_a_long_line_is_cut_around_what_was_found():
    report = complete("Which lines mention `beta`?", "x" * 5000 + " beta " + "y" * 5000)
    assert " beta " in report
    assert len(report) < 1000


def test_an_error_in_the_repl_is_told_and_ends_the_completion():
    class Broken(dict):
        def items(self):
            raise RuntimeError("the context broke")

    answer = complete("Which lines mention `beta`?", Broken(a=1))
    assert "its step 1 did not get to its end" in answer
    assert "RuntimeError: the context broke" in answer


def test_a_repl_that_fails_for_good_ends_in_a_plain_answer():
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Which lines mention `beta`?"}]
    for _ in range(2):
        messages += [
            {"role": "assistant", "content": reply_to(messages)},
            {"role": "user", "content": "The sandbox is gone."},
        ]
    assert reply_to(messages).startswith("FINAL(")


def test_dictated_replies_are_given_word_for_word():
    query = "Play this. <reply>\nfirst\n</reply> <reply>second</reply>"
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": query}]
    said = []
    for _ in range(3):
        said.append(reply_to(messages))
        messages += [{"role": "assistant", "content": said[-1]}, {"role": "user", "content": "output"}]
    assert said == ["first", "second", "FINAL(demo-model: nothing more was dictated)"]


def test_in_a_conversation_the_last_question_dictates():
    before = "Before:\n\n1. Question: a <reply>old</reply>\n   Answer: old"
    asked = f"{before}\n\nQuestion:\nb <reply>new</reply>\n\nThe REPL holds:"
    assert reply_to([{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]) == "new"


def test_content_in_parts_is_read_as_one_text():
    content = [{"type": "text", "text": "Question: Which lines mention `a`?"}, {"type": "text", "text": "none"}]
    assert json.loads(reply_to([{"role": "user", "content": content}]))["yes"] == []


def test_a_prompt_without_a_question_gets_a_sentence_about_its_size():
    assert "has 11 characters and begins: hello there" in read("hello there")


def test_a_conversation_that_goes_on_after_an_answer_begins_anew():
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "first"}]
    messages += [{"role": "assistant", "content": "FINAL_VAR(report)"}, {"role": "user", "content": "second"}]
    assert "demo-model step 1" in reply_to(messages)
