"""A script of a model's replies that can be held back, so that a test knows where a completion is."""

from __future__ import annotations

import asyncio

from tests.support.scripted_model import ScriptedReply


class HeldScript:
    """Can hold back any of its replies, which go by names."""

    def __init__(self, hold: str = "") -> None:
        self.hold_at(hold)

    def hold_at(self, name: str) -> None:
        """From now on holds back the reply of that name; none if it is empty."""
        self.hold = name
        self.reached = asyncio.Event()
        self.held = asyncio.Event()

    def let_go(self, name: str) -> None:
        """Gives the reply that is held back, and from now on holds back another."""
        held = self.held
        self.hold_at(name)
        held.set()

    def reply(self, name: str, text: str, release: asyncio.Event | None = None) -> ScriptedReply:
        """Returns the reply of a name, which is given when `release` is set, if it is not the one to be held back."""
        if name != self.hold:
            return ScriptedReply(text, release=release)
        self.reached.set()
        return ScriptedReply(text, release=self.held)
