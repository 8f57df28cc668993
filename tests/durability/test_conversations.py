"""A conversation goes on after its server has stopped, and on any other server that shares the journal."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import sqlalchemy as sa
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.journal.blobs import DirectoryBlobs
from rlm_server.journal.conversation_rows import NewTurn
from rlm_server.journal.conversations import StoredConversations
from rlm_server.journal.database import Database, parse_url
from rlm_server.journal.schema import VERSION
from rlm_server.journal.states import State
from rlm_server.journal.store import Journal, NewCompletion
from rlm_server.service.housekeeping import forget_old
from rlm_server.settings import Settings

from tests.durability.test_completions import get, rest, until_ended, watch
from tests.durability.test_recovery import assert_told_once
from tests.rlm_server.test_conversations import begin, close, go_on, listed, text, variables
from tests.support.fake_sandbox import FakeSandbox, serving
from tests.support.held_script import HeldScript
from tests.support.rlm_stack import Events, Stack, running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.scripted_model import Messages, ScriptedModel

WAIT_SECONDS = 20

FIRST = ("```repl\nimport random\ndraw = random.random()\nfound = [llm_query('one')]\n```", "ONE", "FINAL(done)")


@pytest.fixture(params=["local", "sandbox"])
def sandbox(request: pytest.FixtureRequest) -> str:
    return "local" if request.param == "local" else str(request.getfixturevalue("sandbox_address"))


@contextlib.asynccontextmanager
async def two_servers(model: ScriptedModel, database: str, path: Path, **settings: Any) -> AsyncIterator[list[Stack]]:
    """Runs two servers on one journal."""
    shared: dict[str, Any] = {"database": database, "data_dir": path} | settings
    async with running_stack(model, **shared) as one, running_stack(model, **shared) as other:
        yield [one, other]


@pytest.fixture
async def servers(model: ScriptedModel, database: str, tmp_path: Path) -> AsyncIterator[list[Stack]]:
    async with two_servers(model, database, tmp_path) as both:
        yield both


async def upload(stack: Stack, data: bytes) -> pb.ContextPart:
    requests = [pb.UploadContextRequest(metadata=pb.ContextMetadata()), pb.UploadContextRequest(chunk=data)]
    return pb.ContextPart(context_id=(await stack.stub.UploadContext(iter(requests))).context_id)


async def refused(attempt: Any, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await attempt
    assert_status(failure.value, code, reason, **metadata)


# --- a server that stops


async def test_a_conversation_goes_on_after_a_restart_with_all_that_it_had(
    model: ScriptedModel, tmp_path: Path, sandbox: str
) -> None:
    settings: dict[str, Any] = {"data_dir": tmp_path, "sandbox": sandbox}
    async with running_stack(model, **settings) as stack:
        kept = await begin(stack, *FIRST, contexts=[text("abc")], query="What first?")
        code = "```repl\nfound += [llm_query('two'), draw]\ndef f(): return len(context_1) + 1\nprint('seen')\n```"
        await go_on(stack, kept, code, "TWO", "FINAL(done)", contexts=[await upload(stack, b"some text")])
    asked = len(model.requests)
    async with running_stack(model, **settings) as stack:
        (conversation,) = await listed(stack)
        assert (conversation.conversation_id, len(conversation.completion_ids)) == (kept, 2)
        assert {(await get(stack, one)).conversation_id for one in conversation.completion_ids} == {kept}
        assert conversation.query_preview == "What first?"
        code = (
            "print(history_1[2]['content'])\nFINAL([found[:2], found[2] == draw, f(), context, history == history_0])"
        )
        events = await go_on(stack, kept, f"```repl\n{code}\n```")
        assert events.answer == '[["ONE", "TWO"], true, 10, "abc", true]'
        assert "seen" in events.output
        assert events.warnings == []
        (restored,) = events.of("sandbox_restored")
        assert restored.replayed_cell_count == 2
        assert events.kinds()[:2] == ["started", "sandbox_restored"]
        assert "1. Question: What first?" in model.conversations[-1][1]["content"]
        assert not (await go_on(stack, kept, "FINAL(x)")).of("sandbox_restored")
    # Nothing that was asked before is asked again.
    assert len(model.requests) == asked + 2


async def test_a_restarted_server_lists_variables_and_closes(model: ScriptedModel, tmp_path: Path) -> None:
    async with running_stack(model, data_dir=tmp_path) as stack:
        kept = [await begin(stack, *FIRST) for _ in range(2)]
    async with running_stack(model, data_dir=tmp_path) as stack:
        assert [one.conversation_id for one in await listed(stack)] == kept[::-1]
        assert "found" in await variables(stack, kept[0])
        events = await go_on(stack, kept[0], "```repl\nFINAL(found)\n```")
        assert (events.answer, len(events.of("sandbox_restored"))) == ('["ONE"]', 1)
        for one in kept:
            await close(stack, one)
        assert await listed(stack) == []
        await refused(go_on(stack, kept[1], "FINAL(x)"), grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")


LATER = [
    "```repl\nfound.append(llm_query('two'))\n```",
    "```repl\nfound.append(context_1)\n```",
    "```repl\nFINAL(found)\n```",
]
STEPS = ["later 0", "two", "later 1", "later 2"]


class Script(HeldScript):
    """Plays a later completion, and can hold any of its replies back."""

    def __init__(self, hold: str = "") -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        super().__init__(hold)

    def __call__(self, messages: Messages) -> ScriptedReply:
        if messages[0]["role"] == "user":
            name, reply = messages[0]["content"], messages[0]["content"].upper()
        else:
            turn = sum(message["role"] == "assistant" for message in messages)
            name, reply = f"later {turn}", LATER[turn]
        self.asked[name] += 1
        return self.reply(name, reply)


async def begin_later(stack: Stack, kept: str, script: Script) -> str:
    call = stack.start(script, conversation_id=kept, contexts=[text("new")], detached=True)
    completion_id = (await call.read()).event.completion_id
    await asyncio.wait_for(script.reached.wait(), WAIT_SECONDS)
    return str(completion_id)


@pytest.mark.parametrize("stopped_at", STEPS)
async def test_a_later_completion_goes_on_wherever_its_server_was_stopped(
    model: ScriptedModel, tmp_path: Path, sandbox: str, stopped_at: str
) -> None:
    settings: dict[str, Any] = {"data_dir": tmp_path, "sandbox": sandbox, "lease_seconds": 2.0}
    script = Script(hold=stopped_at)
    async with running_stack(model, **settings) as stack:
        kept = await begin(stack, *FIRST, contexts=[text("abc")])
        completion_id = await begin_later(stack, kept, script)
    script.hold_at("")
    async with running_stack(model, **settings) as stack:
        events = await asyncio.wait_for(watch(stack, completion_id), WAIT_SECONDS)
        assert events.answer == '["ONE", "TWO", "new"]'
        assert events.all[0].started.conversation_id == kept
        assert events.warnings == []
        assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
        assert_told_once(events)
        assert len(events.of("sandbox_restored")) == 1
        assert script.asked == collections.Counter([*STEPS, stopped_at])
        after = await go_on(stack, kept, "```repl\nFINAL([len(found), history_1[-1]['role'], context_1])\n```")
        assert after.answer == '[3, "assistant", "new"]'
        assert not after.of("sandbox_restored")


async def test_a_later_completion_that_was_parked_goes_on_in_its_conversation_on_any_server(
    servers: list[Stack], model: ScriptedModel
) -> None:
    kept = await begin(servers[0], *FIRST)
    parked = await go_on(servers[0], kept, LATER[0], ScriptedReply("TWO"), ScriptedReply(status=503))
    assert parked.kinds()[-1] == "parked"
    completion_id = parked.all[0].completion_id
    for stack in servers:
        await refused(
            go_on(stack, kept, "FINAL(x)"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "CONVERSATION_BUSY",
            completion_id=completion_id,
        )
    model.follow(["```repl\nFINAL(found)\n```"])
    await servers[1].stub.ResumeCompletion(pb.ResumeCompletionRequest(completion_id=completion_id))
    events = await until_answered(servers[1], completion_id)
    assert events.answer == '["ONE", "TWO"]'
    assert len(events.of("sandbox_restored")) == 1
    for stack in servers:
        assert (await go_on(stack, kept, "```repl\nFINAL(found)\n```")).answer == '["ONE", "TWO"]'


async def test_a_first_completion_that_goes_on_elsewhere_leaves_its_tools_to_later_ones(
    servers: list[Stack], model: ScriptedModel
) -> None:
    tool = pb.Tool(name="double", description="Doubles.", python_source="def double(number): return 2 * number")
    parked = await servers[0].complete(
        "```repl\nx = 4\n```", ScriptedReply(status=503), keep_conversation=True, tools=[tool]
    )
    completion_id = parked.all[0].completion_id
    model.follow(["```repl\nFINAL(double(x))\n```"])
    await servers[1].stub.ResumeCompletion(pb.ResumeCompletionRequest(completion_id=completion_id))
    assert (await until_answered(servers[1], completion_id)).answer == "8"
    for stack, tools in zip([*servers, *servers], [[], [tool], [tool], []], strict=True):
        events = await go_on(stack, completion_id, "```repl\nFINAL(double(x) + 1)\n```", tools=tools)
        assert events.answer == "9"


async def test_a_later_completion_that_finds_no_sandbox_when_it_goes_on_is_parked(
    model: ScriptedModel, tmp_path: Path
) -> None:
    async with serving(fake := FakeSandbox()) as address:
        settings: dict[str, Any] = {"data_dir": tmp_path, "sandbox": address}
        async with running_stack(model, **settings) as stack:
            kept = await begin(stack, *FIRST)
            completion_id = await begin_later(stack, kept, script := Script(hold="later 0"))
        fake.refuse_open = grpc.StatusCode.RESOURCE_EXHAUSTED
        script.hold_at("")
        async with running_stack(model, **settings) as stack:
            events = await asyncio.wait_for(watch(stack, completion_id), WAIT_SECONDS)
            assert events.kinds()[-1] == "parked"
            assert "refused by the test" in events.of("parked")[0].reason
            fake.refuse_open = None
            await stack.stub.ResumeCompletion(pb.ResumeCompletionRequest(completion_id=completion_id))
            assert (await until_answered(stack, completion_id)).answer == '["ONE", "TWO", "new"]'


async def test_what_is_refused_takes_no_place(model: ScriptedModel, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data_dir": tmp_path, "max_conversations": 1}
    async with running_stack(model, **settings) as stack:
        kept = await begin(stack, *FIRST)
    tool = pb.Tool(name="other", python_source="def other(): pass")
    async with running_stack(model, **settings) as stack:
        for wrong in ({"tools": [tool]}, {"contexts": [text("x", "context_0")]}):
            await refused(go_on(stack, kept, **wrong), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert (await go_on(stack, kept, "```repl\nFINAL(found)\n```")).answer == '["ONE"]'
        await refused(begin(stack, "FINAL(x)"), grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CONVERSATIONS")


async def until_answered(stack: Stack, completion_id: str) -> Events:
    await until_ended(stack, completion_id)
    return await watch(stack, completion_id)


async def test_a_parked_later_completion_that_is_cancelled_leaves_what_it_had_done(
    servers: list[Stack], model: ScriptedModel
) -> None:
    kept = await begin(servers[0], *FIRST)
    parked = await go_on(servers[0], kept, LATER[0], ScriptedReply("TWO"), ScriptedReply(status=503))
    request = pb.CancelCompletionRequest(completion_id=parked.all[0].completion_id)
    await servers[1].stub.CancelCompletion(request)
    code = "FINAL([found, [one['role'] for one in history_1]])"
    after = await go_on(servers[1], kept, f"```repl\n{code}\n```")
    assert after.answer == '[["ONE", "TWO"], ["user", "assistant"]]'
    assert "Answer (no final one was given): (none)" in model.conversations[-1][1]["content"]


# --- several servers


async def test_any_server_goes_on_with_a_conversation(servers: list[Stack]) -> None:
    kept = await begin(servers[0], *FIRST)
    for number, stack in enumerate([servers[1], servers[0], servers[0], servers[1]]):
        events = await go_on(stack, kept, f"```repl\nfound.append({number})\nFINAL(found)\n```")
        assert events.answer == str(["ONE", *range(number + 1)]).replace("'", '"')
        # Only what another server has done must be done again: all of it by the second, then what is new.
        replayed = [one.replayed_cell_count for one in events.of("sandbox_restored")]
        assert replayed == ([1], [1], [], [2])[number]
    for stack in servers:
        (conversation,) = await listed(stack)
        assert len(conversation.completion_ids) == 5
        assert (await variables(stack, kept))["found"].size == 5


async def test_a_sandbox_at_hand_is_not_taken_for_up_to_date_after_a_completion_that_only_came_from_the_record(
    servers: list[Stack], model: ScriptedModel
) -> None:
    kept = await begin(servers[1], *FIRST)
    release = asyncio.Event()
    model.follow(["```repl\nfound.append(2)\n```", ScriptedReply("FINAL(done)", release=release)])
    call = servers[0].stub.Complete(pb.CompleteRequest(query="And?", conversation_id=kept, detached=True))
    completion_id = (await call.read()).event.completion_id
    await asyncio.wait_for(model.until_waiting(), WAIT_SECONDS)
    await servers[0].server.stop(0)
    model.follow(["FINAL(done)"])
    assert (await until_answered(servers[1], completion_id)).answer == "done"
    events = await go_on(servers[1], kept, "```repl\nFINAL(found)\n```")
    assert events.answer == '["ONE", 2]'
    assert [one.replayed_cell_count for one in events.of("sandbox_restored")] == [1]


async def test_a_reset_on_another_server_is_one_here_too(servers: list[Stack]) -> None:
    kept = await begin(servers[0], *FIRST)
    limits = limits_pb2.Limits(cell=limits_pb2.CellLimits(wall_time=seconds(0.2)))
    # The local executor cannot undo a block: its variables are lost with it.
    events = await go_on(
        servers[1], kept, "```repl\nwhile True: pass\n```", "```repl\ny = 2\n```", "FINAL(x)", limits=limits
    )
    assert events.of("code_finished")[0].variables_lost
    after = await go_on(servers[0], kept, "```repl\nFINAL(['found' in globals(), y, context])\n```")
    assert after.answer == '[false, 2, "abc"]'


async def test_only_one_completion_runs_in_a_conversation_whatever_server_it_is_asked_for(
    servers: list[Stack], model: ScriptedModel
) -> None:
    kept = await begin(servers[0], *FIRST)
    script = Script(hold="later 0")
    completion_id = await begin_later(servers[1], kept, script)
    (conversation,) = await listed(servers[0])
    assert conversation.running_completion_id == completion_id
    for attempt in (go_on(servers[0], kept, "FINAL(x)"), variables(servers[0], kept)):
        await refused(
            attempt,
            grpc.StatusCode.FAILED_PRECONDITION,
            "CONVERSATION_BUSY",
            conversation_id=kept,
            completion_id=completion_id,
        )
    model.follow(script)
    script.let_go("")
    assert (await asyncio.wait_for(watch(servers[0], completion_id), WAIT_SECONDS)).answer == '["ONE", "TWO", "new"]'


async def test_of_many_questions_at_once_on_two_servers_one_is_taken(
    servers: list[Stack], model: ScriptedModel
) -> None:
    kept = await begin(servers[0], *FIRST)
    release = asyncio.Event()
    model.follow(lambda _: ScriptedReply("FINAL(x)", release=release))

    async def ask(stack: Stack) -> str:
        call = stack.stub.Complete(pb.CompleteRequest(query="And?", conversation_id=kept))
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            assert_status(error, grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_BUSY", conversation_id=kept)
            return "refused"
        release.set()
        await rest(call)
        return "taken"

    asking = [asyncio.create_task(ask(stack)) for stack in servers * 3]
    outcomes = await asyncio.wait_for(asyncio.gather(*asking), WAIT_SECONDS)
    # Those that come when it has ended are taken, too: what matters is that none ran beside another.
    assert outcomes.count("taken") >= 1
    (conversation,) = await listed(servers[0])
    assert len(conversation.completion_ids) == 1 + outcomes.count("taken")


async def test_closing_on_one_server_cancels_what_runs_on_another(servers: list[Stack]) -> None:
    kept = await begin(servers[0], *FIRST)
    completion_id = await begin_later(servers[0], kept, Script(hold="later 1"))
    await close(servers[1], kept)
    assert (await get(servers[0], completion_id)).state == pb.COMPLETION_STATE_CANCELLED
    for stack in servers:
        assert await listed(stack) == []
        await refused(close(stack, kept), grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")


async def test_the_same_request_finds_its_completion_on_any_server_even_after_its_end(servers: list[Stack]) -> None:
    kept = await begin(servers[0], *FIRST)
    fields: dict[str, Any] = {"request_id": "once", "query": "And?", "contexts": [text("new", "named")]}
    first = await go_on(servers[0], kept, "FINAL(y)", **fields)
    again = await go_on(servers[1], kept, **fields)
    assert again.all == first.all
    other = fields | {"query": "Other"}
    await refused(go_on(servers[1], kept, **other), grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_a_listing_is_paged_over_all_servers(servers: list[Stack]) -> None:
    kept = [await begin(servers[number % 2], "FINAL(x)") for number in range(3)]
    first = await servers[0].stub.ListConversations(pb.ListConversationsRequest(page_size=2))
    second = await servers[1].stub.ListConversations(
        pb.ListConversationsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [one.conversation_id for one in [*first.conversations, *second.conversations]] == kept[::-1]
    assert second.next_page_token == ""


# --- how long they are kept


def seconds(value: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


async def test_its_time_runs_out_even_if_no_server_runs(model: ScriptedModel, tmp_path: Path) -> None:
    async with running_stack(model, data_dir=tmp_path) as stack:
        short = await begin(stack, "FINAL(x)", conversation_time_to_live=seconds(0.2))
        long = await begin(stack, "FINAL(x)", conversation_time_to_live=seconds(60))
    await asyncio.sleep(0.25)
    async with running_stack(model, data_dir=tmp_path) as stack:
        (conversation,) = await listed(stack)
        assert (conversation.conversation_id, conversation.time_to_live.seconds) == (long, 60)
        await refused(go_on(stack, short, "FINAL(x)"), grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")
        assert (await go_on(stack, long, "FINAL(x)", conversation_time_to_live=seconds(100))).answer == "x"
        assert (await listed(stack))[0].time_to_live.seconds == 100


async def test_completions_and_contexts_are_kept_for_as_long_as_their_conversation_is(
    model: ScriptedModel, database: str, tmp_path: Path
) -> None:
    # Room for one context: the second upload drives the first one out, once nobody needs that.
    settings: dict[str, Any] = {"data_dir": tmp_path, "database": database, "context_store_bytes": 1000}
    async with running_stack(model, **settings) as stack:
        kept = await begin(stack, "FINAL(x)", contexts=[await upload(stack, b"a" * 600)])
        delete = stack.stub.DeleteCompletion(pb.DeleteCompletionRequest(completion_id=kept))
        await refused(delete, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        await refused(upload(stack, b"b" * 600), grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTEXT_STORE_FULL")
    async with journal_on(database, tmp_path / "blobs") as journal:
        await forget_old(Settings(default_model="m", retention_seconds=0.0), journal)
        assert await journal.get(kept) is not None
    async with running_stack(model, **settings) as stack:
        assert (await go_on(stack, kept, "```repl\nFINAL(len(context))\n```")).answer == "600"
        await close(stack, kept)
        await upload(stack, b"b" * 600)
    async with journal_on(database, tmp_path / "blobs") as journal:
        await forget_old(Settings(default_model="m", retention_seconds=0.0), journal)
        assert await journal.get(kept) is None


# --- the journal


@contextlib.asynccontextmanager
async def journal_on(database: str, blobs: Path, owner: str = "o") -> AsyncIterator[Journal]:
    journal = Journal(Database(database), DirectoryBlobs(blobs), owner=owner, lease_seconds=60)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def new(completion_id: str, turn: NewTurn) -> NewCompletion:
    return NewCompletion(completion_id, b"r", None, "digest", "query", "model", {}, detached=False, turn=turn)


async def test_what_has_expired_is_deleted_and_nothing_else(database: str, tmp_path: Path) -> None:
    async with journal_on(database, tmp_path) as journal:
        stored = StoredConversations(journal)
        for name, time_to_live in (("short", 1), ("running", 1), ("long", 10**12)):
            await journal.create(new(name, NewTurn(name, 1, time_to_live, "preview")))
        end = sa.text("UPDATE completions SET state = :state, end_time = 1 WHERE completion_id <> 'running'")
        await journal.execute(lambda _, connection: connection.execute(end, {"state": int(State.SUCCEEDED)}))
        assert [one.conversation_id for one in await stored.page(limit=10, before=None)] == ["long", "running"]
        assert list(await stored.delete_expired()) == ["short"]
        assert await stored.find("short") is None
        assert {await journal.get(name) is not None for name in ("short", "running", "long")} == {True}


async def test_a_journal_of_before_conversations_is_brought_up_to_date(database: str, tmp_path: Path) -> None:
    async with journal_on(database, tmp_path) as journal:
        await journal.create(NewCompletion("c", b"r", None, "digest", "query", "model", {}, detached=False))
    engine = sa.create_engine(parse_url(database), poolclass=sa.NullPool)
    with engine.begin() as connection:  # what version 1 had
        for statement in (
            "DROP TABLE tool_results",
            "DROP TABLE conversations",
            "DROP INDEX completions_by_conversation",
            "ALTER TABLE completions DROP COLUMN conversation_id",
            "ALTER TABLE completions DROP COLUMN turn",
            "UPDATE schema_version SET version = 1",
        ):
            connection.execute(sa.text(statement))
    engine.dispose()
    async with journal_on(database, tmp_path) as journal:
        stored = await journal.get("c")
        assert stored is not None
        assert (stored.conversation_id, stored.turn) == ("", 0)
        await journal.create(new("d", NewTurn("d", 1, 10**12, "preview")))
        found = await StoredConversations(journal).find("d")
        assert found is not None
        assert [turn.completion_id for turn in found.turns] == ["d"]
        version = sa.text("SELECT max(version) FROM schema_version")
        assert await journal.read(lambda _, connection: connection.execute(version).scalar()) == VERSION
