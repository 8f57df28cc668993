"""What the demo model replies: a function of the messages and of nothing else.

It plays one of five parts, told apart by the messages:

    dictation   the last query holds `<reply>...</reply>` sections: its n-th reply is the n-th of them, word for word
    REPL        the system message names `llm_query`: looks, searches, asks sub-models, answers; a step per reply
    viewer      the last query shows pictures: says of what type and size they are, with the digest of their bytes
    whole       the last query allows to answer CANNOT_ANSWER_DIRECTLY: answers from the context in it (`reader.py`)
    reader      otherwise: reads the excerpts in the prompt and judges their lines by rules (`reader.py`)
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from rlm_server.demo_model import repl_code
from rlm_server.demo_model.protocol import images_of, text_of
from rlm_server.demo_model.reader import answer_directly, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.demo_model.protocol import Message

_SELF = "(demo-model here: a fixed program that stands in for a language model.)"
_GIVE_UP_STEP = 5
_CHILD = "Reply with JSON only"
_CANNOT_ANSWER = "CANNOT_ANSWER_DIRECTLY"
_QUERY = (
    # The server's own prompt; then that of other libraries.
    re.compile(r"^Question:\n(.*?)\n\nThe REPL holds:", re.DOTALL | re.MULTILINE),
    re.compile(r"^(?:Query|Question|Task|Answer the following):[ \n](.*)", re.MULTILINE),
)
_DICTATED = re.compile(r"<reply>\n?(.*?)\n?</reply>", re.DOTALL)
_SCHEMA = re.compile(r"matches this JSON Schema:\n\n(\{.*\})$", re.MULTILINE)
_STEP = re.compile(r"^# demo-model step (\d):", re.MULTILINE)


def reply_to(messages: Sequence[Message]) -> str:
    """Returns the demo model's reply to the messages of a request."""
    system = "\n".join(text_of(one) for one in messages if one.get("role") in {"system", "developer"})
    said = [text_of(one) for one in messages if one.get("role") == "assistant"]
    asked = [text_of(one) for one in messages if one.get("role") == "user"] or [""]
    # In a conversation the questions before it are told, too.
    dictated = _DICTATED.findall(asked[0].rpartition("\n\nQuestion:\n")[2])
    if dictated:
        return dictated[len(said)] if len(said) < len(dictated) else "FINAL(demo-model: nothing more was dictated)"
    if "llm_query" in system:
        schema = _SCHEMA.search(system)
        return _repl_reply(asked, said, schema[1] if schema else "")
    if pictures := [image for one in messages[-1:] for image in images_of(one)]:
        return f"{_SELF} I was shown {_described(pictures)}."
    if _CANNOT_ANSWER in asked[-1]:
        return answer_directly(asked[-1]) or _CANNOT_ANSWER
    return read(asked[-1])


def _described(pictures: Sequence[tuple[str, bytes]]) -> str:
    return ", ".join(
        f"{media_type} of {len(data)} bytes with SHA-256 {hashlib.sha256(data).hexdigest()}"
        for media_type, data in pictures
    )


def _repl_reply(asked: Sequence[str], said: Sequence[str], schema: str) -> str:
    step = _last_step(said)
    if step == 0:
        code = repl_code.LOOK.replace("@QUERY@", repr(_query(asked[0])))
        return _with_code("First I look at what the context is.", code)
    if step == _GIVE_UP_STEP:
        return "FINAL(demo-model: the REPL fails, so there is no answer.)"
    if f"demo-model step {step} done" not in asked[-1]:
        return _give_up(step, asked[-1])
    if step == 1:
        return _with_code("Now I search it for what the question names.", repl_code.SEARCH)
    if step == 2:
        return _with_code("Sub-models judge the lines found; code adds their verdicts up.", repl_code.ASK)
    if _CHILD in _query(asked[0]):
        return _with_code("The report is ready for the parent.", repl_code.ANSWER_OF_CHILD)
    if schema:
        code = repl_code.ANSWER_TYPED.replace("@SCHEMA@", repr(schema))
        return _with_code("The answer has a schema, which I fill in.", code)
    return f"The report holds the answer. {_SELF}\n\nFINAL_VAR(report)"


def _give_up(step: int, output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    tail = "\n".join(lines[-8:])[-800:]
    message = f"The demo model has no answer: its step {step} did not get to its end. The REPL said:\n{tail}"
    return _with_code("That failed; I say so and stop.", repl_code.GIVE_UP.replace("@MESSAGE@", repr(message)))


def _last_step(said: Sequence[str]) -> int:
    for text in reversed(said):
        found = _STEP.search(text)
        if found:
            return int(found[1])
        if "FINAL_VAR(report)" in text:
            return 0  # a conversation goes on after an answer
    return 0


def _query(text: str) -> str:
    for pattern in _QUERY:
        found = pattern.search(text)
        if found:
            return found[1].strip()
    return text.strip()


def _with_code(prose: str, code: str) -> str:
    return f"{prose} {_SELF}\n\n```repl\n{code.strip()}\n```"
