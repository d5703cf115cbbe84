"""Results: matched by id only, every row one outcome, nothing paid for twice, nothing sent more often than allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest

from batch_jobs.errors import ConnectionFailed, RateLimited, RequestRejected, StoreError
from batch_jobs.lifecycle import passes
from batch_jobs.lifecycle.advance import Came
from batch_jobs.lifecycle.check import check_store
from batch_jobs.lifecycle.check_report import Kind
from batch_jobs.lifecycle.control import cancel, resume
from batch_jobs.lifecycle.receive import Order, receive
from batch_jobs.models import BatchProblem, BatchState, EventName, JobOutcome, Mode, Outcome, Phase, ShardState
from batch_jobs.render.items import read_items
from providers.codes import QUOTA_CODES
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import (
    EVENTS,
    ITEMS,
    LIMIT,
    Crash,
    FakeBatch,
    Sent,
    World,
    answer_text,
    expired,
    failed,
    invalid,
    ok,
    truncated,
    waits,
)

Reply = Callable[[Sent], bytes]


def only(event: str, reply: Reply, otherwise: Reply = ok) -> Callable[[Sent], list[bytes]]:
    return lambda sent: [reply(sent) if sent.event == event else otherwise(sent)]


def in_turn(event: str, replies: Sequence[Reply | None]) -> Callable[[Sent], list[bytes]]:
    """One event's item gets these replies, one a round; None is no reply at all."""
    rest = list(replies)

    def reply(sent: Sent) -> list[bytes]:
        if sent.event != event:
            return [ok(sent)]
        chosen = rest.pop(0)
        return [chosen(sent)] if chosen else []

    return reply


def ended(state: BatchState, *problems: BatchProblem, answered: int = 0) -> Callable[[World, FakeBatch], None]:
    def end(world: World, batch: FakeBatch) -> None:
        batch.lines = [line for sent in batch.requests[:answered] for line in world.provider.reply(sent)]
        batch.state, batch.problems = state, problems

    return end


def first_batch_ends(world: World, how: Callable[[World, FakeBatch], None]) -> None:
    """The first batch ends like this, the later ones complete."""

    def end(batch: FakeBatch) -> None:
        if batch.batch_id == "batch-1":
            how(world, batch)
        else:
            world.provider.complete_batch(batch)

    world.provider.end = end


def test_results_come_in_any_order(world: World) -> None:
    def backwards(batch: FakeBatch) -> None:
        world.provider.complete_batch(batch)
        batch.lines.reverse()

    world.provider.end = backwards
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    assert [row["summary"] for row in world.output() if row["summary"]] == [
        f"about {event}" for event in EVENTS if event != "UNRENDERABLE"
    ]
    world.check(calls_billed=ITEMS)


def test_a_job_of_which_a_prompt_failed_is_partial(world: World) -> None:
    world.run()
    assert world.job.outcome is JobOutcome.PARTIAL
    failures = [row for row in world.output() if row["summarize_status"] != "ok"]
    assert [row["what"] for row in failures] == ["UNRENDERABLE"]
    assert "no such event" in failures[0]["summarize_status"]


@pytest.mark.parametrize(
    "foreign",
    [
        "{other}-r0-s0-i1",
        "{task}-r1-s0-i1",
        "{task}-r0-s01-i1",
        "{task}-r0-s0-i01",
        "{task}-r0-s0-i",
        "{task}-r0-s0-i-1",
        "{task}-r0-s0-i1 ",
        "{task}-r0-s0-i٣",
        "{task}-r0-s0-i999",
        "{task}-r0-s0",
        "x",
    ],
)
def test_an_unknown_id_is_nobodys_answer(world: World, foreign: str) -> None:
    custom_id = foreign.format(task=world.task_id, other="0" * 32)

    def with_stranger(batch: FakeBatch) -> None:
        world.provider.complete_batch(batch)
        batch.lines.insert(0, ok(Sent(custom_id, batch.requests[0].body), answer_text("somebody else")))

    world.provider.end = with_stranger
    assert world.run() is Came.DONE
    assert len(world.named(EventName.RESULT_UNKNOWN_ID)) == 1
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    assert "somebody else" not in str(world.output())
    world.check(calls_billed=ITEMS)


def test_an_id_with_thousands_of_digits_is_nobodys_answer(world: World) -> None:
    def with_stranger(batch: FakeBatch) -> None:
        world.provider.complete_batch(batch)
        batch.lines.append(ok(Sent(f"{batch.key}-i{'1' * 5_000}", batch.requests[0].body)))

    world.provider.end = with_stranger
    assert world.run() is Came.DONE
    assert len(world.named(EventName.RESULT_UNKNOWN_ID)) == 1
    world.check(calls_billed=ITEMS)


def test_two_results_for_an_item_are_none(world: World) -> None:
    """Which of the two is right can't be known, so neither is taken; the item goes to the next round."""
    first = True

    def reply(sent: Sent) -> list[bytes]:
        nonlocal first
        if sent.event == "event-2" and first:
            first = False
            return [ok(sent, answer_text("one")), ok(sent, answer_text("two"))]
        return [ok(sent)]

    world.provider.reply = reply
    assert world.run() is Came.DONE
    assert len(world.named(EventName.RESULT_DOUBLED_ID)) == 1
    assert len(world.provider.sent_to("event-2")) == 2
    assert len(world.provider.batches["batch-2"].requests) == 1
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS + 1)


def test_always_doubled_ends_as_an_error_with_its_reason(world: World) -> None:
    world.provider.reply = lambda sent: [ok(sent)] * (3 if sent.event == "event-2" else 1)
    assert world.run() is Came.DONE
    assert world.records[2].outcome is Outcome.ERRORED
    assert world.records[2].code == "doubled_id"
    assert len(world.provider.sent_to("event-2")) == 3
    world.check(calls_billed=ITEMS - 1 + 3)


def test_lines_that_are_no_results_are_named_and_passed_over(world: World) -> None:
    def with_rubbish(batch: FakeBatch) -> None:
        world.provider.complete_batch(batch)
        batch.lines[1:1] = [b"not json", b"[]", b"null", b'{"custom_id": 5}', b"\xff\xfe", b"   "]

    world.provider.end = with_rubbish
    assert world.run() is Came.DONE
    assert len(world.named(EventName.RESULT_UNREADABLE)) == 5
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


def test_a_missing_result_is_sent_again_and_only_that(world: World) -> None:
    world.provider.reply = in_turn("event-3", [None, ok])
    assert world.run() is Came.DONE
    assert [sent.event for sent in world.provider.batches["batch-2"].requests] == ["event-3"]
    world.check(calls_billed=ITEMS)


def test_what_is_always_missing_ends_as_missing_after_the_last_round(world: World) -> None:
    world.provider.reply = lambda sent: [] if sent.event == "event-3" else [ok(sent)]
    assert world.run() is Came.DONE
    assert world.records[3].outcome is Outcome.MISSING
    assert len(world.provider.sent_to("event-3")) == 3
    world.check(calls_billed=ITEMS - 1)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_nothing_is_sent_in_more_rounds_than_allowed(make_world: MakeWorld, rounds: int) -> None:
    world = make_world(rounds={"max": rounds})
    world.provider.reply = lambda sent: [failed(sent, 503)]
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == rounds
    assert world.outcomes == [Outcome.ERRORED] * ITEMS
    assert world.job.outcome is JobOutcome.FAILED
    world.check(calls_billed=0)


def test_an_expired_batch_keeps_what_was_finished(world: World) -> None:
    first_batch_ends(world, ended(BatchState.EXPIRED, answered=4))
    assert world.run() is Came.DONE
    assert [sent.event for sent in world.provider.batches["batch-2"].requests] == ["event-4", "event-5"]
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


def test_an_expired_batch_that_says_so_per_item(world: World) -> None:
    world.provider.reply = in_turn("event-0", [expired, ok])
    first_batch_ends(world, ended(BatchState.EXPIRED, answered=5))
    assert world.run() is Came.DONE
    assert [sent.event for sent in world.provider.batches["batch-2"].requests] == ["event-0", "event-5"]
    world.check(calls_billed=ITEMS)


def test_a_batch_that_failed_for_now_is_sent_again(world: World) -> None:
    first_batch_ends(world, ended(BatchState.FAILED, BatchProblem("token_limit_exceeded", "too many tokens queued")))
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 2
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


def test_a_batch_that_failed_for_good_is_final(world: World) -> None:
    problem = BatchProblem("invalid_json_line", "line 1 is no JSON", 1)
    world.provider.end = lambda batch: ended(BatchState.FAILED, problem)(world, batch)
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert world.outcomes == [Outcome.ERRORED] * ITEMS
    assert "line 1 is no JSON" in world.output()[0]["summarize_status"]
    world.check(calls_billed=0)


def test_a_failed_batch_without_a_reason_is_final_and_not_a_bug(world: World) -> None:
    world.provider.end = lambda batch: ended(BatchState.FAILED)(world, batch)
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.ERRORED] * ITEMS
    world.check(calls_billed=0)


def test_a_batch_that_somebody_cancelled_at_the_provider_is_sent_again(world: World) -> None:
    first_batch_ends(world, ended(BatchState.CANCELLED, answered=2))
    assert world.run() is Came.DONE
    assert len(world.provider.batches["batch-2"].requests) == ITEMS - 2
    world.check(calls_billed=ITEMS)


def test_only_error_results(world: World) -> None:
    world.provider.reply = lambda sent: [failed(sent, 400, "invalid_request_error")]
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert world.job.outcome is JobOutcome.FAILED
    world.check(calls_billed=0)


def test_no_result_files_at_all(world: World) -> None:
    first_batch_ends(world, ended(BatchState.COMPLETED))
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS)


def test_an_invalid_answer_is_sent_again_with_what_is_wrong_with_it(world: World) -> None:
    world.provider.reply = in_turn("event-1", [invalid, ok])
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    first, again = world.provider.sent_to("event-1")
    assert again.body["messages"][:2] == first.body["messages"]
    answer, feedback = again.body["messages"][2:]
    assert answer == {"role": "assistant", "content": "no JSON at all"}
    assert feedback["role"] == "user" and "not valid JSON" in feedback["content"]
    world.check(calls_billed=ITEMS + 1)


@pytest.mark.parametrize("repairs", [0, 1, 4])
def test_an_answer_is_repaired_so_often_and_all_are_paid_for(make_world: MakeWorld, repairs: int) -> None:
    world = make_world(rounds={"max": 3}, repairs=repairs)
    world.provider.reply = in_turn("event-1", [invalid] * 9)
    assert world.run() is Came.DONE
    assert world.records[1].outcome is Outcome.INVALID
    assert len(world.provider.sent_to("event-1")) == 1 + repairs
    world.check(calls_billed=ITEMS + repairs)


def test_a_truncated_answer_gets_four_times_the_room(world: World) -> None:
    world.provider.reply = in_turn("event-1", [truncated, ok])
    assert world.run() is Came.DONE
    assert [sent.limit for sent in world.provider.sent_to("event-1")] == [LIMIT, 4 * LIMIT]
    world.check(calls_billed=ITEMS + 1)


@pytest.mark.parametrize("between", [expired, None, failed])
def test_the_wider_limit_is_not_forgotten_when_the_next_round_was_not_executed(
    make_world: MakeWorld, between: Reply | None
) -> None:
    world = make_world(rounds={"max": 3})
    world.provider.reply = in_turn("event-1", [truncated, between, ok])
    assert world.run() is Came.DONE
    assert [sent.limit for sent in world.provider.sent_to("event-1")] == [LIMIT, 4 * LIMIT, 4 * LIMIT]
    world.check(calls_billed=ITEMS + 1)


@pytest.mark.parametrize(
    "replies",
    [
        [invalid, expired, invalid],
        [invalid, failed, invalid],
        [truncated, None, truncated],
        [invalid, truncated, invalid],
        [truncated, invalid, truncated],
    ],
)
def test_each_of_invalid_and_truncated_is_sent_again_at_most_once(
    make_world: MakeWorld, replies: list[Reply | None]
) -> None:
    world = make_world(rounds={"max": 8}, repairs=1)
    world.provider.reply = in_turn("event-1", [*replies, *[ok] * 5])
    assert world.run() is Came.DONE
    assert len(world.provider.sent_to("event-1")) <= len(replies)
    assert world.records[1].outcome in {Outcome.INVALID, Outcome.TRUNCATED}
    world.check()


def test_merging_again_after_a_crash_changes_nothing(world: World) -> None:
    """The last commit of a merge is lost: every item is merged, and the shard does not say so yet."""
    world.provider.reply = in_turn("event-1", [invalid, ok])
    world.sql(
        "CREATE TRIGGER crash BEFORE UPDATE ON provider_batches WHEN NEW.state = 'merged' "
        "BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
    )
    for _ in range(3):
        with pytest.raises(StoreError):
            world.run()
        assert world.shards[0].state is ShardState.FETCHED
        assert (world.records[1].outcome, world.records[1].last_outcome) == (None, Outcome.INVALID)
        assert world.spent.calls == ITEMS
    world.sql("DROP TRIGGER crash")
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    world.check(calls_billed=ITEMS + 1)


def test_a_pause_is_not_lost_with_the_last_commit_of_a_merge(make_world: MakeWorld) -> None:
    world = make_world(rounds={"max": 2})
    world.provider.reply = in_turn("event-2", [expired, lambda sent: failed(sent, 429, "insufficient_quota")])
    world.sql(
        "CREATE TRIGGER crash BEFORE UPDATE ON provider_batches WHEN NEW.state = 'merged' AND NEW.round = 1 "
        "BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
    )
    with pytest.raises(StoreError):
        world.run()
    world.sql("DROP TRIGGER crash")
    assert world.run() is Came.PAUSED
    assert world.records[2].outcome is None


def test_an_answer_is_in_the_cache_before_the_ledger_counts_it(world: World) -> None:
    world.sql("CREATE TRIGGER full BEFORE INSERT ON calls BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    with pytest.raises(StoreError, match="disk is full"):
        world.run()
    prints = [item.fingerprint for item in read_items(world.project.workspace.plan(world.task_id))]
    assert len(world.project.cache.get(prints)) == ITEMS
    assert world.outcomes == [None] * ITEMS
    assert world.spent.calls == 0
    world.sql("DROP TRIGGER full")
    assert world.run() is Came.DONE
    assert len(world.provider.posts) == 1
    world.check(calls_billed=ITEMS)


def test_a_failed_cache_write_counts_nothing(world: World) -> None:
    with world.project.cache.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
        )
    with pytest.raises(StoreError):
        world.run()
    assert world.outcomes == [None] * ITEMS
    with world.project.cache.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


def test_a_download_that_broke_off_is_fetched_again(world: World) -> None:
    broken = 2

    def before(verb: str, _: str) -> None:
        nonlocal broken
        if verb == "fetch" and broken:
            broken -= 1
            raise ConnectionFailed("the download broke off")

    world.provider.before = before
    assert world.run() is Came.DONE
    assert len(world.named(EventName.PROVIDER_FAILED)) == 2
    world.check(calls_billed=ITEMS)


def test_one_shards_trouble_does_not_stop_the_others(make_world: MakeWorld) -> None:
    world = make_world(limits={"max_requests": 2})
    troubled = True

    def before(verb: str, what: str) -> None:
        if verb == "check" and what == "batch-2" and troubled:
            raise ConnectionFailed("hung up")

    world.provider.before = before
    for _ in range(3):
        world.clock.now += world.advance().seconds
    assert [shard.state for shard in world.shards] == [ShardState.MERGED, ShardState.SUBMITTED, ShardState.MERGED]
    troubled = False
    assert world.run() is Came.DONE
    world.check(calls_billed=ITEMS)


def test_a_batch_that_is_gone_pauses_and_says_which(world: World) -> None:
    world.provider.end = waits
    world.advance()
    world.provider.before = gone
    assert world.run() is Came.PAUSED
    assert "batch-1" in (world.job.message or "")
    world.check(calls_billed=0)


def test_a_paused_job_whose_batch_is_gone_can_be_cancelled_to_its_end(world: World) -> None:
    """Otherwise nothing the user can do would ever end it."""
    world.provider.end = waits
    world.advance()
    world.provider.before = gone
    assert world.run() is Came.PAUSED
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.job.outcome is JobOutcome.CANCELLED
    world.check(calls_billed=0)


def gone(verb: str, _: str) -> None:
    if verb in {"check", "fetch", "cancel"}:
        raise RequestRejected("no such batch", status=404)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_quota_inside_the_items_pauses_and_resume_sends_just_those(make_world: MakeWorld, rounds: int) -> None:
    world = make_world(rounds={"max": rounds})
    world.provider.reply = only("event-2", lambda sent: failed(sent, 429, "insufficient_quota"))
    assert world.run() is Came.PAUSED
    assert "insufficient_quota" in (world.job.message or "")
    assert world.records[2].outcome is None
    world.check(calls_billed=ITEMS - 1)
    world.provider.reply = lambda sent: [ok(sent)]
    resume(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert world.outcomes == [Outcome.SUCCEEDED] * ITEMS
    assert len(world.provider.sent_to("event-2")) == 2
    world.check(calls_billed=ITEMS)


def test_quota_in_the_last_round_pauses(make_world: MakeWorld) -> None:
    world = make_world(rounds={"max": 2})
    world.provider.reply = in_turn("event-2", [expired, lambda sent: failed(sent, 429, "insufficient_quota")])
    assert world.run() is Came.PAUSED
    assert world.records[2].outcome is None
    world.check(calls_billed=ITEMS - 1)


@pytest.mark.parametrize("code", sorted(QUOTA_CODES))
def test_every_code_that_a_provider_calls_quota_pauses_the_job(world: World, code: str) -> None:
    world.provider.reply = only("event-2", lambda sent: failed(sent, 429, code))
    assert world.run() is Came.PAUSED
    world.check(calls_billed=ITEMS - 1)


def test_quota_in_one_shard_keeps_the_others_from_being_sent(make_world: MakeWorld) -> None:
    """A paused job sends nothing until `resume`, also not what was already rendered."""
    world = make_world(limits={"max_requests": 3})
    full = True

    def before(verb: str, what: str) -> None:
        if verb == "create" and what.endswith("-s1") and full:
            raise RateLimited("later")

    world.provider.before = before
    world.provider.end = waits
    world.provider.reply = lambda sent: [failed(sent, 429, "insufficient_quota")]
    world.advance()
    world.provider.end, full = world.provider.complete_batch, False
    posts = len(world.provider.posts)
    world.clock.now += 60
    world.run()
    assert world.job.phase is Phase.PAUSED
    assert len(world.provider.posts) == posts


def test_answers_of_another_job_cost_nothing(make_world: MakeWorld) -> None:
    """The second job's plan finds what the first one paid for."""
    world = make_world()
    world.run()
    upload = world.project.prompt_lib.parent / "events.csv"
    again = receive(world.project, Order(upload, "again.csv", "summarize", "loss", mode=Mode.BATCH, autostart=True))
    second = World(world.project, world.provider, world.clock, again.task_id)
    assert second.run() is Came.DONE
    assert len(world.provider.posts) == 1
    assert all(record.known for record in second.records.values())
    assert second.spent.calls == 0
    assert [row["summary"] for row in second.output()] == [row["summary"] for row in world.output()]


def test_the_raw_results_are_kept_as_they_came(world: World) -> None:
    world.run()
    folder = world.project.workspace.raw_results(world.task_id, 0, 0)
    lines = (folder / "output.jsonl").read_bytes().splitlines()
    assert lines == world.provider.batches["batch-1"].lines
    assert orjson.loads(lines[0])["custom_id"] == f"{world.task_id}-r0-s0-i0"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


@pytest.mark.parametrize("lose", [Path.unlink, _cut], ids=["gone", "cut off at a line's end"])
def test_results_that_are_lost_before_they_are_merged_are_fetched_again(
    world: World, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path], None]
) -> None:
    """Merged from less than was fetched, paid answers would count as missing, and be paid again."""
    _dies_before_merging(world, monkeypatch)
    path = world.project.workspace.raw_results(world.task_id, 0, 0) / "output.jsonl"
    lose(path)
    root = world.project.prompt_lib.parent
    found = check_store(root / "config.json", root).findings
    assert [(finding.kind, Path(finding.place)) for finding in found] == [(Kind.RESULTS, path)]
    assert world.run() is Came.DONE
    assert [event.data["files"] for event in world.named(EventName.RESULTS_GONE)] == [["output.jsonl"]]
    assert len(world.provider.posts) == 1
    world.check(calls_billed=ITEMS)


def test_results_that_are_lost_here_and_at_the_provider_pause_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _dies_before_merging(world, monkeypatch)
    (world.project.workspace.raw_results(world.task_id, 0, 0) / "output.jsonl").unlink()

    def gone(verb: str, _: str) -> None:
        if verb == "fetch":
            raise RequestRejected("the file is not there any more")

    world.provider.before = gone
    assert world.run() is Came.PAUSED
    assert "the file is not there any more" in (world.job.message or "")
    assert len(world.provider.posts) == 1


def _dies_before_merging(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setitem(passes._SHARD_STEPS, ShardState.FETCHED, dies)
        with pytest.raises(Crash):
            world.run()
    assert [shard.state for shard in world.shards] == [ShardState.FETCHED]
