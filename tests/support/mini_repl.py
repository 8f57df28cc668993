"""The smallest loop that plays a completion with the demo model: its policy, apart from the engine."""

from __future__ import annotations

import contextlib
import io
import json
import re
import traceback
from typing import Any

from rlm_server.demo_model.policy import reply_to

SYSTEM = "You have a REPL with context, llm_query, llm_query_batched and rlm_query_batched; write ```repl blocks."


def complete(query: str, context: Any, *, recursive: bool = True, transcript: list[str] | None = None) -> str:
    """Returns the demo model's answer; replies and outputs are appended to the transcript."""
    answer: dict[str, Any] = {"content": "", "ready": False}
    log = transcript if transcript is not None else []

    def llm_query_batched(prompts: list[str]) -> list[str]:
        return [reply_to([{"role": "user", "content": prompt}]) for prompt in prompts]

    def rlm_query_batched(prompts: list[str], *, contexts: list[Any]) -> list[str]:
        pairs = zip(prompts, contexts, strict=True)
        if not recursive:
            return llm_query_batched([f"{prompt}\n\nContext:\n{json.dumps(context)}" for prompt, context in pairs])
        return [complete(prompt, context, transcript=log) for prompt, context in pairs]

    names = {
        "context": context,
        "answer": answer,
        "llm_query_batched": llm_query_batched,
        "rlm_query_batched": rlm_query_batched,
    }
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Question:\n{query}\n\nThe REPL holds:\n- `context`"},
    ]
    for _ in range(10):
        reply = reply_to(messages)
        log.append(reply)
        code = re.search(r"```repl\n(.*)\n```", reply, re.DOTALL)
        if code is None:
            final = re.search(r"FINAL_VAR\((\w+)\)", reply)
            return str(names[final[1]]) if final else reply
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            try:
                exec(code[1], names)
            except Exception:  # noqa: BLE001 - the code under test may raise anything
                traceback.print_exc(file=output)
        log.append(output.getvalue())
        if answer["ready"]:
            return str(answer["content"])
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": output.getvalue()}]
    raise AssertionError("the demo model does not come to an end")
