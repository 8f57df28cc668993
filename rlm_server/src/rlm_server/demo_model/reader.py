"""The demo model as a plain sub-model: it reads the excerpts in its prompt and judges their lines by rules."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STAND_IN = "demo-model, a fixed program that stands in for a language model"
_QUOTED = re.compile(r"`([^`]+)`|\"([^\"]+)\"")
_EXCERPT = re.compile(r"^--- (.*)\n((?:[> ] +\d+\|.*(?:\n|\Z))+)", re.MULTILINE)
_CONTEXT = "\n\nContext:\n"
_STRING_OR_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(#.*)""")


@dataclass(frozen=True)
class _Line:
    place: str
    text: str
    nearby: str


def read(prompt: str) -> str:
    """Returns the reply to a prompt.

    A prompt with a `Question:` line and excerpts gets a JSON object: the places of the lines that count (`yes`), the
    others (`no`), and for questions that ask to find something how well the best lines fit the question's words
    (`score`). Any other prompt gets a sentence about its size.
    """
    asked, is_with_context, context = prompt.partition(_CONTEXT)
    question = re.search(r"^(?:Question: )?(.*)" if is_with_context else r"^Question: (.*)", asked, re.MULTILINE)
    if question is None:
        start = " ".join(prompt.split())[:80]
        return f"({_STAND_IN}) The prompt has {len(prompt)} characters and begins: {start}"
    terms = _terms(asked, question[1])
    lines = list(_lines_of_documents(context, terms) if is_with_context else _marked_lines(asked))
    counts = _rule(question[1], terms)
    if counts is not None:
        yes = [line.place for line in lines if counts(line.text)]
        verdict: dict[str, object] = {"yes": yes, "no": [line.place for line in lines if line.place not in set(yes)]}
    else:
        scores = {line.place: _score(_words(question[1]), line) for line in lines}
        best = max(scores.values(), default=0)
        verdict = {
            "yes": [place for place, score in scores.items() if score == best],
            "no": [place for place, score in scores.items() if score != best],
            "score": best,
        }
    return json.dumps(verdict | {"by": _STAND_IN}, ensure_ascii=False)


def answer_directly(prompt: str) -> str | None:
    """Returns the answer to a prompt that has the whole context in it, or None to a question that names no term."""
    found = re.search(r"^Question:\n(.*?)\n\nContext:\n", prompt, re.MULTILINE | re.DOTALL)
    question = found[1] if found else ""
    terms = _terms(prompt, question)
    if not terms:
        return None
    counts = _rule(question, terms) or (lambda _: True)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(term)}(?!\w)" for term in terms))
    places = [
        f"{name}: {number}"
        for name, text in re.findall(r"^=== (\w+): [^\n]*\n(.*?)\n=== end of \1$", prompt, re.MULTILINE | re.DOTALL)
        for number, line in enumerate(text.split("\n"), 1)
        if pattern.search(line) and counts(line.strip())
    ]
    return "\n".join([f"Lines that count: {len(places)}", *places, f"(Answered by {_STAND_IN}.)"])


def _terms(prompt: str, question: str) -> list[str]:
    given = re.search(r"^Terms: (\[.*\])$", prompt, re.MULTILINE)
    if given:
        return [str(term) for term in json.loads(given[1])]
    return ["".join(groups) for groups in _QUOTED.findall(question)]


def _marked_lines(prompt: str) -> Iterator[_Line]:
    """Yields the lines that are marked in the excerpts of a prompt."""
    for place, body in _EXCERPT.findall(prompt):
        rows = body.splitlines()
        marked = next((row for row in rows if row.startswith(">")), "|")
        yield _Line(place, marked.partition("|")[2].strip(), "\n".join(row.partition("|")[2] for row in rows))


def _lines_of_documents(context: str, terms: list[str]) -> Iterator[_Line]:
    """Yields the lines that hold a term in a context that was put into the prompt, as beyond the greatest depth."""
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(term)}(?!\w)" for term in terms) or r"(?!)")
    try:
        documents = json.loads(context)
    except ValueError:
        documents = [{"id": "context", "text": context}]
    for document in documents if isinstance(documents, list) else []:
        if isinstance(document, dict) and isinstance(document.get("text"), str):
            for number, line in enumerate(document["text"].split("\n"), 1):
                if pattern.search(line):
                    yield _Line(f"{document.get('id')}:{number}", line.strip(), line)


def _rule(question: str, terms: list[str]) -> Callable[[str], bool] | None:
    """Returns the rule by which a line counts, or None for a question that asks to find something."""
    asked = question.lower()
    term = "|".join(re.escape(one) for one in terms)

    def code_matches(pattern: str) -> Callable[[str], bool]:
        return lambda line: re.search(pattern, _code_of(line)) is not None

    if "decorat" in asked:
        return code_matches(rf"^@(?:\w+\.)*(?:{term})\b")
    if "import" in asked:
        return code_matches(rf"^(?:from|import)\b.*\b(?:{term})\b")
    if "defin" in asked:
        return code_matches(rf"^(?:async )?(?:def|class) (?:{term})\b")
    if "call" in asked:
        return code_matches(rf"(?<!def )(?<!class )(?<!\w)(?:{term})\s*\(")
    if "comment" in asked:
        return lambda line: re.search(term, _comment_of(line)) is not None
    if re.search(r"\b(mention|contain|occur|hold)", asked):
        return lambda line: True  # noqa: ARG005 - every line that was found counts
    if re.search(r"\b(how (many|often)|count|which (lines|files)|used?)\b", asked):
        return code_matches(rf"(?<!\w)(?:{term})(?!\w)")
    return None


def _score(wanted: set[str], line: _Line) -> int:
    """Returns how well a line fits a question: its own words count most, those of the lines around it a little."""
    return 10 * len(wanted & _words(line.text)) + len(wanted & _words(line.nearby))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", text.lower()))


def _code_of(line: str) -> str:
    """Returns a line of Python without its comment and with its strings emptied."""
    return _STRING_OR_COMMENT.sub(lambda found: '""' if found[1] else "", line).strip()


def _comment_of(line: str) -> str:
    """Returns the comment of a line of Python, or an empty string."""
    return next((found[2] for found in _STRING_OR_COMMENT.finditer(line) if found[2]), "")
