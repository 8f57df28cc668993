"""Models are told what their sandbox has beside the standard library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as sandbox_pb

from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from tests.support.fake_sandbox import FakeSandbox
    from tests.support.scripted_model import ScriptedModel

ASKS_A_CHILD = "```repl\nrlm_query('q', context='c')\n```"
IMAGES = [
    sandbox_pb.Image(name="standard"),
    sandbox_pb.Image(name="maths", packages=["sympy==1.14.0", "mpmath==1.3.0"]),
]
LINE = "- Packages that can be imported, beside the standard library: sympy 1.14.0, mpmath 1.3.0.\n"


def system_messages(model: ScriptedModel) -> list[str]:
    return [messages[0]["content"] for messages in model.conversations if messages[0]["role"] == "system"]


async def test_root_and_children_are_told_the_packages_of_the_image(model: ScriptedModel, sandbox: FakeSandbox) -> None:
    sandbox.images = IMAGES
    async with running_stack(model, sandbox=sandbox.address, sandbox_image="maths") as stack:
        events = await stack.complete(ASKS_A_CHILD, "FINAL(child)", "FINAL(done)")
    assert events.answer == "done"
    assert {opened.image for opened in sandbox.opened} == {"maths"}
    told = system_messages(model)
    assert len(told) == 3
    assert all(LINE in text for text in told)
    assert sandbox.info_count == 1


async def test_of_many_packages_the_first_are_told_and_how_many_more(
    model: ScriptedModel, sandbox: FakeSandbox
) -> None:
    sandbox.images = [sandbox_pb.Image(name="maths", packages=[f"p{number}==1" for number in range(60)])]
    async with running_stack(model, sandbox=sandbox.address, sandbox_image="maths") as stack:
        await stack.complete("FINAL(done)")
    assert "p0 1, p1 1, " in system_messages(model)[0]
    assert "p49 1, and 10 more.\n" in system_messages(model)[0]


@pytest.mark.parametrize("image", ["", "maths"])
async def test_nothing_is_said_of_the_standard_image_or_of_one_that_is_not_known(
    model: ScriptedModel, sandbox: FakeSandbox, image: str
) -> None:
    async with running_stack(model, sandbox=sandbox.address, sandbox_image=image) as stack:
        assert (await stack.complete("FINAL(done)")).answer == "done"
    assert "beside the standard library" not in system_messages(model)[0]
    assert sandbox.info_count == (1 if image else 0)
