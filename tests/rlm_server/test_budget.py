"""Limits on tokens and money: nothing is sent that could go over them, and what is not known is said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlm_api.rlm.v1 import event_pb2, limits_pb2
from rlm_server.engine.budgets.accounts import LimitReachedError
from rlm_server.engine.budgets.budget import Budget, cost_microdollars
from rlm_server.engine.budgets.reported_prices import ReportedPrices
from rlm_server.engine.budgets.token_estimate import TokenBound
from rlm_server.engine.clock import SystemClock
from rlm_server.engine.limits import CompletionLimits
from rlm_server.engine.ports.models import Message, ModelInfo, Price, TokenCounts

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Events
    from tests.support.scripted_model import Messages, ScriptedModel

PRICE = {"input": 1.0, "output": 10.0, "cached_input": 0.1}
MODEL = ModelInfo("m", price=Price(1, 10, 0.1))
FREE = ModelInfo("free", price=Price(0, 0))


def using(text: str, sent: int = 10, made: int = 5, **more: Any) -> ScriptedReply:
    """Returns a reply that is said to have taken so many tokens."""
    return ScriptedReply(text, usage={"prompt_tokens": sent, "completion_tokens": made} | more)


async def complete(model: ScriptedModel, *replies: Any, price: Any = PRICE, **limits: Any) -> Events:
    """Runs a completion with a model of that price."""
    models = {"m": {"base_url": model.base_url, "price": price}}
    async with running_stack(model, models=models, default_model="m", default_sub_model=None) as stack:
        return await stack.complete(*replies, limits=limits_pb2.Limits(**limits))


# --- over gRPC


async def test_money_is_counted_by_price_with_cached_tokens_at_theirs(model: ScriptedModel) -> None:
    usage = {"prompt_tokens_details": {"cached_tokens": 400}}
    events = await complete(model, using("FINAL(x)", 1000, 50, **usage))
    assert events.finished.usage.total.cost_microdollars == 600 + 40 + 500
    assert events.of("model_reply_finished")[0].usage.cost_microdollars == 1140
    assert events.finished.usage.total.unpriced_call_count == 0


async def test_a_limit_on_money_ends_with_its_reason_and_the_best_answer(model: ScriptedModel) -> None:
    code = "```repl\nanswer['content'] = 'draft'\n```"
    events = await complete(model, using(code, 2000, 9_700), "never asked", max_cost_microdollars=100_000)
    assert (events.reason, events.finished.answer, events.finished.partial) == ("MAX_COST", "draft", True)
    assert "max_cost_microdollars of 100,000 is reached: $0.001 are left" in events.finished.error
    assert len(model.requests) == 1


async def test_money_for_nothing_asks_no_model(model: ScriptedModel) -> None:
    events = await complete(model, "never asked", max_cost_microdollars=0)
    assert (events.reason, model.requests) == ("MAX_COST", [])


async def test_the_operators_greatest_caps_what_a_request_allows_itself(model: ScriptedModel) -> None:
    greatest = CompletionLimits(max_cost_microdollars=500)
    async with running_stack(model, max_limits=greatest) as stack:
        for asked in (limits_pb2.Limits(max_cost_microdollars=10**9), limits_pb2.Limits()):
            events = await stack.complete("FINAL(x)", limits=asked)
            assert events.all[0].started.limits.max_cost_microdollars == 500


async def test_a_negative_amount_is_refused(model: ScriptedModel) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        await complete(model, "never asked", max_cost_microdollars=-1)
    assert "limits.max_cost_microdollars: is -1; must be at least 0" in str(failure.value.details())


async def test_the_money_of_sub_calls_and_children_counts_and_code_sees_what_is_left(model: ScriptedModel) -> None:
    code = "rlm_query('p')\nllm_query('q')\nprint(budget()['dollars'])"
    replies = [using(f"```repl\n{code}\n```", 0, 1000), using("FINAL(c)", 0, 2000), using("sub", 0, 3000), "FINAL(x)"]
    events = await complete(model, *replies, max_cost_microdollars=1_000_000)
    assert events.output == "0.94\n"
    assert [one.usage.cost_microdollars for one in events.of("subcall_finished")] == [20_000, 30_000]


async def test_each_reply_is_given_a_limit_so_that_it_cannot_overshoot(model: ScriptedModel) -> None:
    await complete(model, using("```repl\nx=1\n```", 10, 5), "FINAL(x)", max_output_tokens=40_000)
    first, second = (request["max_tokens"] for request in model.requests)
    assert first == 40_000 // 8
    assert second == (40_000 - 5) // 8


async def test_the_last_reply_gets_what_is_left(model: ScriptedModel) -> None:
    await complete(model, using("```repl\nx=1\n```", 10, 990), using("FINAL(x)"), max_output_tokens=1090)
    assert [request["max_tokens"] for request in model.requests] == [1090, 100]


async def test_a_reply_that_the_budget_cut_short_is_told(model: ScriptedModel) -> None:
    cut = ScriptedReply("half", stop_reason="length")
    events = await complete(model, "```repl\nFINAL(llm_query('q'))\n```", cut, max_output_tokens=10_000)
    assert events.answer == "half"
    assert [(event.node_id, event.warning.message) for event in events.events_of("warning")] == [
        ("0.1", "the reply was cut by the limit of tokens")
    ]


async def test_a_reply_is_not_given_more_than_the_window_has_room_for(model: ScriptedModel) -> None:
    models = {"m": {"base_url": model.base_url, "window_tokens": 8000}}
    limits = limits_pb2.Limits(max_output_tokens=1_000_000)
    async with running_stack(model, models=models, default_model="m", default_sub_model=None) as stack:
        await stack.complete("FINAL(x)", limits=limits)
    assert 4000 < model.requests[0]["max_tokens"] < 7000


async def test_without_such_limits_replies_are_given_none(model: ScriptedModel) -> None:
    await complete(model, "FINAL(x)", max_input_tokens=100_000)
    assert "max_tokens" not in model.requests[0]


@pytest.mark.parametrize("limits", [{"max_output_tokens": 20_000}, {"max_cost_microdollars": 200_000}])
async def test_a_batch_cannot_go_over_a_limit_together(model: ScriptedModel, limits: dict[str, int]) -> None:
    """Twelve calls at once, each of which would take all of its reply: what they take together is within the limit."""

    def reply(messages: Messages) -> ScriptedReply:
        if messages[0]["role"] == "system":
            return using(
                "```repl\nr = llm_query_batched(['q'] * 12)\nFINAL([bool(x) for x in r].count(True))\n```", 0, 0
            )
        return using("x", 0, model.requests[-1]["max_tokens"])

    models = {"m": {"base_url": model.base_url, "price": PRICE}}
    async with running_stack(model, models=models, default_model="m", default_sub_model=None) as stack:
        events = await stack.play(reply, limits=limits_pb2.Limits(**limits))
    total = events.finished.usage.total
    assert total.output_tokens <= 20_000
    assert total.cost_microdollars <= 200_000
    assert total.output_tokens >= 16_000
    assert 4 <= int(events.answer) < 12
    refused = [one for one in events.of("subcall_finished") if one.finish_reason != event_pb2.FINISH_REASON_ANSWERED]
    assert len(refused) == 12 - int(events.answer)
    assert "SUBCALL_REFUSED" in events.warnings


async def test_a_batch_of_which_all_fits_in_the_end_is_made_as_a_whole(model: ScriptedModel) -> None:
    """What is set aside would not do for all at once, but what they take does: the rest waits and is not refused."""
    calls = 30

    def reply(messages: Messages) -> ScriptedReply:
        if messages[0]["role"] == "system":
            return using(f"```repl\nFINAL(len([x for x in llm_query_batched(['q'] * {calls}) if x]))\n```", 0, 0)
        return using("x", 0, 100)

    models = {"m": {"base_url": model.base_url, "price": PRICE}}
    async with running_stack(model, models=models, default_model="m", default_sub_model=None) as stack:
        events = await stack.play(reply, limits=limits_pb2.Limits(max_output_tokens=calls * 100 + 1000))
    assert events.answer == str(calls)
    assert events.finished.usage.total.output_tokens == calls * 100


async def test_a_price_that_is_not_known_is_told_and_counted(model: ScriptedModel) -> None:
    events = await complete(model, "```repl\ny=1\n```", "FINAL(x)", price=None, max_cost_microdollars=1000)
    assert events.answer == "x"
    assert events.warnings == ["PRICE_UNKNOWN"]
    usage = events.finished.usage.total
    assert (usage.call_count, usage.unpriced_call_count, usage.cost_microdollars) == (2, 2, 0)


async def test_without_a_limit_on_money_an_unknown_price_is_only_counted(model: ScriptedModel) -> None:
    events = await complete(model, "FINAL(x)", price=None)
    assert events.warnings == ["ANSWER_WITHOUT_CODE"]
    assert events.finished.usage.total.unpriced_call_count == 1


async def test_the_cost_that_an_endpoint_reports_counts_where_there_is_no_price(model: ScriptedModel) -> None:
    replies = using("```repl\nx=1\n```", cost=0.002), using("never")
    events = await complete(model, *replies, price=None, max_cost_microdollars=2000)
    assert (events.reason, events.finished.usage.total.cost_microdollars) == ("MAX_COST", 2000)


async def test_a_batch_without_a_price_is_bounded_by_what_the_endpoint_reports(model: ScriptedModel) -> None:
    """Sixteen calls at once at a cent each, of which five cents allow no more than five."""

    def reply(messages: Messages) -> ScriptedReply:
        if messages[0]["role"] == "system":
            return using(
                "```repl\nr = llm_query_batched(['q'] * 40)\nFINAL(len([x for x in r if x.__class__ is str]))\n```"
            )
        return using("x", 1000, 100, cost=0.01)

    models = {"m": {"base_url": model.base_url}, "sub": {"base_url": model.base_url}}
    async with running_stack(model, models=models, default_model="m", default_sub_model="sub") as stack:
        events = await stack.play(reply, limits=limits_pb2.Limits(max_cost_microdollars=50_000))
    assert 2 <= int(events.answer) <= 5
    assert events.finished.usage.total.cost_microdollars <= 50_000


async def test_a_model_whose_endpoint_reports_no_cost_is_asked_at_once(model: ScriptedModel) -> None:
    release = asyncio.Event()
    asked = 0

    def reply(messages: Messages) -> ScriptedReply:
        nonlocal asked
        if messages[0]["role"] == "system":
            return using("```repl\nllm_query('first')\nFINAL(len(llm_query_batched(['q'] * 5)))\n```")
        asked += 1
        if asked == 6:
            release.set()
        return ScriptedReply("x", release=release if asked > 1 else None)

    async with running_stack(model) as stack:
        events = await stack.play(reply, limits=limits_pb2.Limits(max_cost_microdollars=50_000))
    assert events.answer == "5"


@pytest.mark.parametrize(
    ("calls", "price"),
    [
        ([TokenCounts(1000, 0, cost_microdollars=2000)], Price(2, 20)),
        ([TokenCounts(1000, 100, cost_microdollars=3000)], Price(3, 30)),
        ([TokenCounts(1000, 500, cost_microdollars=3000)], Price(3, 6)),
        ([TokenCounts(10, 500, cost_microdollars=3000)], Price(6, 6)),
        ([TokenCounts(1000, 100, 900, cost_microdollars=1200)], Price(12, 12)),
        ([TokenCounts(1000, 100, cost_microdollars=3000), TokenCounts(10, 500, cost_microdollars=3000)], Price(3, 6)),
        ([TokenCounts(1000, 100)], None),
        ([TokenCounts(0, 0, cost_microdollars=1)], None),
        ([TokenCounts(1000, 100, cost_microdollars=0)], Price(0, 0)),
    ],
)
def test_a_price_is_bounded_by_what_calls_have_cost(calls: list[TokenCounts], price: Price | None) -> None:
    prices = ReportedPrices()
    for call in calls:
        prices.learn(ModelInfo("m"), call)
    assert prices.price(ModelInfo("m")) == price
    assert prices.price(MODEL) == MODEL.price


async def test_without_usage_the_limits_are_kept_by_estimates(model: ScriptedModel) -> None:
    reply = ScriptedReply("```repl\n'" + "x" * 30_000 + "'\n```", usage=None)
    events = await complete(model, reply, "never asked", max_output_tokens=15_000)
    assert events.reason == "MAX_TOKENS"
    assert "USAGE_UNKNOWN" in events.warnings
    assert events.finished.usage.total.output_tokens == 0


async def test_a_reply_that_broke_off_counts_against_the_limits(model: ScriptedModel) -> None:
    broken = ScriptedReply("x" * 30_000, break_off=True)
    models = {"m": {"base_url": model.base_url, "price": PRICE, "max_retries": 3}}
    settings: dict[str, Any] = {"models": models, "default_model": "m", "default_sub_model": None}
    async with running_stack(model, **settings) as stack:
        events = await stack.complete(broken, "never asked", limits=limits_pb2.Limits(max_output_tokens=15_000))
    assert events.reason == "MAX_TOKENS"
    assert len(model.requests) == 1
    assert events.warnings[0] == "MODEL_RETRY"


async def test_a_call_that_cannot_be_repeated_gives_back_what_was_set_aside_just_once(model: ScriptedModel) -> None:
    """Or else a call that waits for what another has set aside would wait for ever."""
    release = asyncio.Event()
    code = (
        "other = llm_query_async('B' * 3_000)\ntry: llm_query('A' * 20_000)\nexcept SubcallError as e: kind = e.kind\n"
        "waits = llm_query_async('C' * 11_600)\nprint(kind)\nFINAL(waits.result() + other.result())"
    )

    def reply(messages: Messages) -> ScriptedReply:
        text = messages[0]["content"]
        if messages[0]["role"] == "system":
            return using(f"```repl\n{code}\n```", 0, 0)
        if text.startswith("A"):
            return ScriptedReply("x", break_off=True)
        return ScriptedReply("slow", usage={"prompt_tokens": 0, "completion_tokens": 0}, release=release)

    models = {"m": {"base_url": model.base_url, "max_retries": 1}}
    limits = limits_pb2.Limits(max_input_tokens=10_000)
    async with running_stack(model, models=models, default_model="m", default_sub_model=None) as stack:
        stack.model.follow(reply)
        all_events = []
        async for response in stack.start(reply, limits=limits):
            all_events.append(response.event)
            if response.event.WhichOneof("kind") == "output":
                assert response.event.output.text.startswith("refused")
                release.set()
    assert all_events[-1].finished.answer == "slowslow"
    assert all_events[-1].finished.usage.total.call_count == 4


async def test_a_call_that_failed_at_once_costs_nothing(model: ScriptedModel) -> None:
    code = "r = llm_query_batched(['q'])[0]\nFINAL((r.kind, budget()['dollars']))"
    replies = using(f"```repl\n{code}\n```", 0, 1000), ScriptedReply(status=400)
    events = await complete(model, *replies, max_cost_microdollars=100_000)
    assert events.answer == '["bad_request", 0.09]'


async def test_a_fallback_is_set_aside_at_the_higher_price(model: ScriptedModel) -> None:
    models = {
        "cheap": {"base_url": model.base_url, "price": {"input": 0, "output": 0}, "fallbacks": ["dear"]},
        "dear": {"base_url": model.base_url, "price": {"input": 0, "output": 100}},
    }
    settings: dict[str, Any] = {"models": models, "default_model": "cheap", "default_sub_model": None}
    async with running_stack(model, **settings) as stack:
        await stack.complete("FINAL(x)", limits=limits_pb2.Limits(max_cost_microdollars=100_000))
    assert model.requests[0]["max_tokens"] == 1000


# --- by itself


@given(
    limit=st.integers(100, 50_000),
    calls=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 5000), st.floats(0, 1)), max_size=40),
)
async def test_no_order_of_calls_goes_over_a_limit(limit: int, calls: list[tuple[int, int, float]]) -> None:
    limits = CompletionLimits(max_output_tokens=limit, max_cost_microdollars=limit * 11, max_input_tokens=limit)
    budget = Budget(limits, SystemClock())

    async def call(sent: int, wanted: int, part: float) -> None:
        try:
            reservation = await budget.reserve([MODEL], sent, wanted)
        except LimitReachedError:
            return
        await asyncio.sleep(0)
        assert reservation.output_tokens is not None
        budget.record_model_call(MODEL, TokenCounts(sent, int(reservation.output_tokens * part)))
        budget.release(reservation)

    await asyncio.gather(*(call(*one) for one in calls))
    total = budget.usage().total
    assert total.input_tokens <= limit
    assert total.output_tokens <= limit
    assert total.cost_microdollars <= limit * 11 + len(calls)


async def test_a_call_that_is_cancelled_while_it_waits_lets_the_next_one_go_on() -> None:
    budget = Budget(CompletionLimits(max_output_tokens=1000), SystemClock())
    first = await budget.reserve([FREE], 0, 600)
    waiting = asyncio.create_task(budget.reserve([FREE], 0, 600))
    behind = asyncio.create_task(budget.reserve([FREE], 0, 600))
    await asyncio.sleep(0)
    waiting.cancel()
    budget.record_model_call(FREE, TokenCounts(0, 10))
    budget.release(first)
    assert (await behind).output_tokens == 600


async def test_calls_that_wait_are_served_in_their_order() -> None:
    budget = Budget(CompletionLimits(max_output_tokens=1000), SystemClock())
    first = await budget.reserve([FREE], 0, 1000)
    order: list[int] = []

    async def wait(number: int, wanted: int) -> None:
        reservation = await budget.reserve([FREE], 0, wanted)
        order.append(number)
        budget.release(reservation)

    tasks = [asyncio.create_task(wait(number, wanted)) for number, wanted in enumerate((900, 10, 500))]
    await asyncio.sleep(0)
    budget.release(first)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


def test_a_cost_is_exact() -> None:
    assert cost_microdollars(MODEL, TokenCounts(1000, 100, 300)) == pytest.approx(700 + 30 + 1000)
    assert cost_microdollars(ModelInfo("m", price=Price(1, 2)), TokenCounts(10, 0, 10)) == 10
    assert cost_microdollars(ModelInfo("m"), TokenCounts(1, 1)) is None
    assert cost_microdollars(ModelInfo("m"), TokenCounts(1, 1, cost_microdollars=7)) == 7


def test_the_bound_of_tokens_learns_upwards_from_what_is_reported() -> None:
    bound, messages = TokenBound(), [Message("user", "x" * 10_000)]
    assert bound.tokens("m", messages) >= 5000
    bound.learn("m", messages, 2500)
    assert 3000 <= bound.tokens("m", messages) < 3100
    bound.learn("m", messages, 9000)
    assert bound.tokens("m", messages) == 10_008
    bound.learn("m", messages, 10)
    assert bound.tokens("m", messages) == 10_008
    assert bound.tokens("other", messages) == 5008
