"""A context of hundreds of MiB, from a client's file to a variable in a real sandbox; takes half a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rlm_client import AsyncClient

from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_model import ScriptedModel

MIB = 1024 * 1024


@pytest.mark.slow
async def test_a_text_of_320_mib_becomes_a_variable(sandbox_address: str, model: ScriptedModel, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    line = "ä line of 32 bytes, with an end\n"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(320):
            file.write(line * (MIB // len(line.encode())))
    code = "```repl\nFINAL([len(context.encode()), context.count('\\n')])\n```"
    async with running_stack(model, sandbox=sandbox_address) as stack, AsyncClient(stack.server.addresses[0]) as client:
        model.follow([code])
        completion = await client.completion(path, "How large is it?")
    size_bytes = path.stat().st_size
    assert completion.answer == f"[{size_bytes}, {size_bytes // len(line.encode())}]"
