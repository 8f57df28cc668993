"""Tokens and money of a tree of calls, or of a part of it: what it may take, has taken, and has set aside for calls."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.text import count

LEAST_REPLY_TOKENS = 16
"""A call that could have no longer reply is not worth its prompt. Some endpoints take no smaller limit either."""

_MICRODOLLARS_PER_DOLLAR = 1_000_000


class LimitReachedError(Exception):
    """A limit that ends a node, or the completion.

    Args:
        reason: which.
        message: for people, with the limit.
    """

    def __init__(self, reason: event_pb2.FinishReason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass
class Amounts:
    """Tokens and money."""

    input_tokens: int = 0
    output_tokens: int = 0
    microdollars: float = 0.0

    def add(self, other: Amounts) -> None:
        """Adds others."""
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.microdollars += other.microdollars

    def subtract(self, other: Amounts) -> None:
        """Takes others away."""
        self.input_tokens -= other.input_tokens
        self.output_tokens -= other.output_tokens
        self.microdollars -= other.microdollars


@dataclass
class Account:
    """What the whole tree, or one child with all below it, may take; None means no limit.

    Args:
        max_input_tokens: tokens sent to models.
        max_output_tokens: tokens made by models.
        max_cost_microdollars: what models cost, in millionths of a US dollar.
        node_id: the child whose share of the tree's limits these are; empty for the tree's own.
        charged: what calls have taken.
        reserved: what is set aside for calls that run.
    """

    max_input_tokens: int | None
    max_output_tokens: int | None
    max_cost_microdollars: int | None
    node_id: str = ""
    charged: Amounts = field(default_factory=Amounts)
    reserved: Amounts = field(default_factory=Amounts)

    @property
    def has_limits(self) -> bool:
        """Whether there is any."""
        return not (self.max_input_tokens is self.max_output_tokens is self.max_cost_microdollars is None)

    @property
    def input_tokens_left(self) -> int | None:
        """How many tokens may still be sent; None means no limit. Calls that run count when they are over."""
        return _left(self.max_input_tokens, self.charged.input_tokens)

    @property
    def output_tokens_left(self) -> int | None:
        """How many tokens may still be made, likewise."""
        return _left(self.max_output_tokens, self.charged.output_tokens)

    @property
    def cost_microdollars_left(self) -> int | None:
        """How much may still be paid, likewise."""
        return _left(self.max_cost_microdollars, math.ceil(self.charged.microdollars))

    def check_input(self, input_tokens: int, input_cost: float) -> None:
        """Checks whether a call may be sent, if no other call takes anything.

        Raises:
            LimitReachedError: it may not.
        """
        tokens_left, cost_left = self.input_tokens_left, self.cost_microdollars_left
        if tokens_left is not None and (input_tokens > tokens_left or tokens_left == 0):
            raise LimitReachedError(
                event_pb2.FINISH_REASON_MAX_TOKENS,
                f"{self._reached('max_input_tokens')}: {tokens_left:,} are left, and the next call may send "
                f"{input_tokens:,}",
            )
        if cost_left is not None and (input_cost > cost_left or cost_left == 0):
            raise LimitReachedError(
                event_pb2.FINISH_REASON_MAX_COST,
                f"{self._reached('max_cost_microdollars')}: ${dollars(cost_left)} are left, and what the next call "
                f"sends may cost ${dollars(input_cost)}",
            )

    def reply_room(self, input_tokens: int, input_cost: float, output_price: float, reserved: Amounts) -> int | None:
        """Returns how long a reply may be beside what is reserved; None means no limit, less than 0 no call at all."""
        rooms: list[int] = []
        if self.input_tokens_left is not None and input_tokens + reserved.input_tokens > self.input_tokens_left:
            return -1
        if self.output_tokens_left is not None:
            rooms.append(self.output_tokens_left - reserved.output_tokens)
        if self.cost_microdollars_left is not None:
            cost_left = self.cost_microdollars_left - reserved.microdollars - input_cost
            if cost_left < 0:
                return -1
            if output_price:
                rooms.append(int(cost_left / output_price))
        return min(rooms, default=None)

    def exhausted(self, output_price: float) -> LimitReachedError:
        """Returns the error for a call whose reply would be too short to be of use."""
        tokens_left = self.output_tokens_left
        if tokens_left is not None and tokens_left < LEAST_REPLY_TOKENS:
            return LimitReachedError(
                event_pb2.FINISH_REASON_MAX_TOKENS,
                f"{self._reached('max_output_tokens')}: {count(tokens_left, 'token')} left for a reply",
            )
        left = dollars(self.cost_microdollars_left or 0)
        return LimitReachedError(
            event_pb2.FINISH_REASON_MAX_COST,
            f"{self._reached('max_cost_microdollars')}: ${left} are left, too little for a prompt and a reply at "
            f"${output_price:g} a million tokens",
        )

    def _reached(self, name: str) -> str:
        limit: int = getattr(self, name) or 0
        if not self.node_id:
            return f"{name} of {limit:,} is reached"
        return f"the share of node {self.node_id}, {limit:,} of what was left of {name}, is used up"


def dollars(microdollars: float) -> str:
    """Returns an amount as people read it, without the sign."""
    return f"{microdollars / _MICRODOLLARS_PER_DOLLAR:.6f}".rstrip("0").rstrip(".")


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)
