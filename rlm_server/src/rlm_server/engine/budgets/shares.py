"""Shares of the budget: what one child RLM, with all that is below it, may use, so that it can't starve the others.

A child's share of what its parent has left, when the call is made and after what other children at work were promised,
is a half of the sub-calls, tokens and money, split evenly over the children of a batch, and three quarters of the time.
A share is the most that a child may use, and what its calls can take is set aside in it as well as in the budget of the
whole tree: so a batch of its calls cannot go over it together. Nothing is set aside for the child itself: what it does
not use is there for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.budgets.accounts import Account
from rlm_server.engine.budgets.budget import SubcallsExhaustedError
from rlm_server.engine.text import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rlm_server.engine.budgets.budget import Budget
    from rlm_server.engine.ports.clock import Clock

_TIME_SHARE = 0.75


@dataclass(frozen=True)
class Left:
    """What a node, with all below it, may still use; None means no limit.

    Args:
        seconds: wall time.
        subcalls: sub-calls.
        input_tokens: tokens to be sent to models.
        output_tokens: tokens to be made by models.
        cost_microdollars: what models cost, in millionths of a US dollar.
    """

    seconds: float
    subcalls: int
    input_tokens: int | None
    output_tokens: int | None
    cost_microdollars: int | None


@dataclass
class _Share:
    """The share of one child, and what of it is used."""

    given: Left
    account: Account
    start_seconds: float
    subcalls: int = 0

    def left(self, now_seconds: float) -> Left:
        return Left(
            seconds=max(0.0, self.given.seconds - (now_seconds - self.start_seconds)),
            subcalls=max(0, self.given.subcalls - self.subcalls),
            input_tokens=self.account.input_tokens_left,
            output_tokens=self.account.output_tokens_left,
            cost_microdollars=self.account.cost_microdollars_left,
        )


class Shares:
    """The shares of the children at work in one completion.

    Args:
        budget: the whole tree's.
        clock: tells the time.
    """

    def __init__(self, budget: Budget, clock: Clock) -> None:
        self._budget = budget
        self._clock = clock
        self._shares: dict[str, _Share] = {}

    def left(self, node_id: str) -> Left:
        """Returns what a node may still use: the least of what the tree and the children above it have left."""
        budget, tree, now_seconds = self._budget, self._budget.account, self._clock.monotonic_seconds()
        lefts = [share.left(now_seconds) for _, share in self._above(node_id)]
        return Left(
            seconds=min([budget.remaining_seconds(), *(left.seconds for left in lefts)]),
            subcalls=min([budget.subcalls_left, *(left.subcalls for left in lefts)]),
            input_tokens=_least([tree.input_tokens_left, *(left.input_tokens for left in lefts)]),
            output_tokens=_least([tree.output_tokens_left, *(left.output_tokens for left in lefts)]),
            cost_microdollars=_least([tree.cost_microdollars_left, *(left.cost_microdollars for left in lefts)]),
        )

    def give(self, parent_id: str, child_ids: Sequence[str]) -> None:
        """Gives the children of one call their shares."""
        if not child_ids:
            return
        left, now_seconds = self.left(parent_id), self._clock.monotonic_seconds()
        prefix = f"{parent_id}."
        promised = [
            share.left(now_seconds)
            for node_id, share in self._shares.items()
            if node_id.startswith(prefix) and "." not in node_id.removeprefix(prefix)
        ]
        parts = 2 * len(child_ids)
        share = Left(
            seconds=left.seconds * _TIME_SHARE,
            subcalls=max(0, left.subcalls - sum(one.subcalls for one in promised)) // parts,
            input_tokens=_part(left.input_tokens, [one.input_tokens for one in promised], parts),
            output_tokens=_part(left.output_tokens, [one.output_tokens for one in promised], parts),
            cost_microdollars=_part(left.cost_microdollars, [one.cost_microdollars for one in promised], parts),
        )
        for child_id in child_ids:
            account = Account(share.input_tokens, share.output_tokens, share.cost_microdollars, child_id)
            self._shares[child_id] = _Share(share, account, now_seconds)

    def take_back(self, child_id: str) -> None:
        """Ends the share of a child that is done."""
        self._shares.pop(child_id, None)

    def accounts(self, node_id: str) -> list[Account]:
        """Returns the tokens and money of the children at and above a node, its own first."""
        return [share.account for _, share in self._above(node_id)]

    def reserve_subcalls(self, node_id: str, number: int) -> None:
        """Takes sub-calls out of the shares above a node and out of the budget, all or none.

        Raises:
            SubcallsExhaustedError: there are not enough left.
        """
        shares = dict(self._above(node_id))
        for share in shares.values():
            left = share.given.subcalls - share.subcalls
            if number > left:
                raise SubcallsExhaustedError(
                    f"{count(number, 'sub-call')} asked for, {left:,} left of this node's share of "
                    f"{share.given.subcalls:,}; none was made. Ask for fewer, or do it in Python"
                )
        self._budget.reserve_subcalls(number)
        for share in shares.values():
            share.subcalls += number

    def _above(self, node_id: str) -> Iterator[tuple[str, _Share]]:
        while node_id:
            if node_id in self._shares:
                yield node_id, self._shares[node_id]
            node_id = node_id.rpartition(".")[0]


def _least(values: Sequence[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _part(left: int | None, promised: Sequence[int | None], parts: int) -> int | None:
    return None if left is None else max(0, left - sum(one or 0 for one in promised)) // parts
