"""Prices of models for which none is configured, as far as what their endpoints say that calls cost tells them."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from rlm_server.engine.ports.models import Price

if TYPE_CHECKING:
    from rlm_server.engine.ports.models import ModelInfo, TokenCounts

_MOST_TIMES_INPUT = 10
"""How much more than a token that is sent one that is made costs at most; four to eight times is usual."""


class ReportedPrices:
    """Bounds prices from above by the costs that were reported: no part of a call can have cost more than the whole.

    The first call to a model whose price is not known is made alone, so that it is known for the others: `may_begin`.
    """

    def __init__(self) -> None:
        self._prices: dict[str, Price] = {}
        self._heard_of: set[str] = set()
        self._under_way: collections.Counter[str] = collections.Counter()

    def price(self, model: ModelInfo) -> Price | None:
        """Returns what is known of a model's price."""
        return model.price or self._prices.get(model.name)

    def may_begin(self, model: ModelInfo) -> bool:
        """Whether a call may begin: its price is known, or its endpoint has reported none, or no call is under way."""
        return model.price is not None or model.name in self._heard_of or not self._under_way[model.name]

    def begin(self, model: ModelInfo) -> None:
        """Takes note that a call begins."""
        self._under_way[model.name] += 1

    def end(self, model: ModelInfo) -> None:
        """Takes note that a call is over."""
        self._under_way[model.name] -= 1

    def learn(self, model: ModelInfo, tokens: TokenCounts | None) -> None:
        """Takes note of what an endpoint has reported of a call; None if it reported nothing."""
        if model.price is not None:
            return
        self._heard_of.add(model.name)
        if tokens is None or tokens.cost_microdollars is None:
            return
        cost, fresh = tokens.cost_microdollars, tokens.input_tokens - tokens.cached_input_tokens
        known = self._prices.get(model.name, Price(float("inf"), float("inf")))
        output = known.output
        if tokens.output_tokens:
            output = min(output, cost / tokens.output_tokens)
        if fresh:
            output = min(output, _MOST_TIMES_INPUT * cost / fresh)
        if output < float("inf"):
            # What is sent never costs more than what is made.
            self._prices[model.name] = Price(min(known.input, cost / fresh if fresh else known.input, output), output)
