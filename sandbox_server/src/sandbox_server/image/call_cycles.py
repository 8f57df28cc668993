"""Finds functions that may be called again before they return.

Source: R. Tarjan, "Depth-first search and linear graph algorithms", SIAM J. Comput. 1 (1972), without recursion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


def in_cycles(calls: Sequence[Collection[int]]) -> set[int]:
    """Returns the functions that call themselves, or each other in a circle.

    Args:
        calls: for each function, by its number, those that it calls.
    """
    found: set[int] = set()
    order: dict[int, int] = {}
    lowest: dict[int, int] = {}
    open_ones: list[int] = []
    is_open: set[int] = set()

    def visit(one: int) -> Iterator[int]:
        order[one] = lowest[one] = len(order)
        open_ones.append(one)
        is_open.add(one)
        return iter(calls[one])

    for root in range(len(calls)):
        if root in order:
            continue
        path = [(root, visit(root))]
        while path:
            one, rest = path[-1]
            called = next(rest, None)
            if called is None:
                path.pop()
                if path:
                    caller = path[-1][0]
                    lowest[caller] = min(lowest[caller], lowest[one])
                if lowest[one] == order[one]:
                    component: list[int] = []
                    while not component or component[-1] != one:
                        component.append(open_ones.pop())
                    is_open.difference_update(component)
                    if len(component) > 1 or one in calls[one]:
                        found.update(component)
            elif called not in order:
                path.append((called, visit(called)))
            elif called in is_open:
                lowest[one] = min(lowest[one], order[called])
    return found
