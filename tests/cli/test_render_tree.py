"""The tree that a terminal shows."""

from __future__ import annotations

import io

from rich.console import Console
from rlm_api.rlm.v1 import event_pb2
from rlm_client._completion import EventFold
from rlm_server.cli.render_tree import TreeRenderer

from tests.support.fake_completion_service import answered


def draw(events):
    fold, written = EventFold(()), io.StringIO()
    renderer = TreeRenderer(
        Console(file=written, force_terminal=True, color_system=None, width=100, legacy_windows=False)
    )
    with renderer:
        for event in events:
            renderer.event(event)
            fold.add(event)
    renderer.completion(fold.completion())
    return written.getvalue()


def test_it_shows_turn_code_output_sub_call_and_answer():
    shown = draw(answered("the answer"))
    for text in (
        "turn 1 of at most 30, m",
        "print(x)",
        "one",
        "0.1 llm_query_batched[0] model call model=s",
        "ANSWERED in 0.000 s: yes",
        "the answer",
    ):
        assert text in shown


def test_text_that_looks_like_markup_is_shown_as_it_is():
    events = answered("[bold]x[/bold] [/]")
    events[7].output.text = "[red]not red[/red] [/]"
    shown = draw(events)
    assert "[red]not red[/red] [/]" in shown
    assert "[bold]x[/bold] [/]" in shown


def test_of_very_many_sub_calls_the_last_are_shown():
    events = answered()
    calls = [
        event_pb2.Event(
            node_id=f"0.{n}", subcall_started=event_pb2.SubcallStarted(parent_node_id="0", function="llm_query")
        )
        for n in range(2, 102)
    ]
    shown = draw(events[:-1] + calls + events[-1:])
    assert "89 sub-calls before these" in shown
    assert "0.101 llm_query" in shown
    assert "0.50 llm_query" not in shown


def test_a_child_is_drawn_below_its_parent():
    events = answered()
    child = [
        event_pb2.Event(
            node_id="0.2",
            subcall_started=event_pb2.SubcallStarted(
                parent_node_id="0", kind=event_pb2.NODE_KIND_RLM, function="rlm_query", model="m"
            ),
        ),
        event_pb2.Event(node_id="0.2", iteration_started=event_pb2.IterationStarted(iteration=1, max_iterations=5)),
        event_pb2.Event(node_id="0.2", code_started=event_pb2.CodeStarted(iteration=1, block=1, code="y = 2")),
        event_pb2.Event(
            node_id="0.2.1",
            subcall_started=event_pb2.SubcallStarted(parent_node_id="0.2", function="llm_query", model="m"),
        ),
    ]
    shown = draw(events[:-1] + child + events[-1:])
    assert shown.rindex("0.2 rlm_query child RLM") < shown.rindex("y = 2") < shown.rindex("0.2.1 llm_query")
