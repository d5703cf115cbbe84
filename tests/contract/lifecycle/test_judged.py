"""Judged and bundled answers: what is asked a second time goes as it should, and nothing that came is asked again."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.errors import RateLimited
from batch_jobs.lifecycle import questions
from batch_jobs.lifecycle.advance import Came, advance
from batch_jobs.models import ItemResult, Mode, Outcome
from tests.contract.lifecycle.kit import (
    JUDGE_MODEL,
    JUDGED,
    LIMIT,
    MODEL,
    USAGE,
    OnlyProvider,
    Sent,
    World,
    answer_text,
    job_of,
    ok,
    open_fake,
    truncated,
    world_with,
)

EVENTS = [f"event-{number}" for number in range(6)]
ACCEPT = json.dumps({"verdict": "accept", "score": 1, "feedback": ""})
REJECT = json.dumps({"verdict": "reject", "score": 0, "feedback": "it is made up"})
MakeJudged = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeJudged]:
    made: list[World] = []

    def world(mode: Mode, rules: dict[str, Any], events: Sequence[str] = EVENTS, **sections: Any) -> World:
        made.append(world_with(tmp_path / f"world-{len(made)}", mode, rules, events, **sections))
        return made[-1]

    yield world
    for one in made:
        one.project.close()


def is_judge(sent: Sent) -> bool:
    return bool(sent.body["model"] == JUDGE_MODEL)


def test_a_verdict_that_was_cut_off_is_asked_for_with_more_room(make: MakeJudged) -> None:
    world = make(Mode.BATCH, JUDGED)
    limits: list[int] = []

    def reply(sent: Sent) -> list[bytes]:
        if not is_judge(sent):
            return [ok(sent)]
        if sent.event == "event-3":
            limits.append(sent.limit)
            return [truncated(sent) if len(limits) == 1 else ok(sent, ACCEPT)]
        return [ok(sent, ACCEPT)]

    world.provider.reply = reply
    assert world.run() is Came.DONE
    assert limits == [LIMIT, 4 * LIMIT]
    assert world.outcomes == [Outcome.SUCCEEDED] * len(EVENTS)


def test_a_verdict_that_is_none_is_asked_for_once_more_in_both_modes(make: MakeJudged) -> None:
    for mode in (Mode.BATCH, Mode.CONCURRENT):
        world = make(mode, JUDGED)
        asked = Counter[str]()

        def text(sent: Sent, asked: Counter[str] = asked) -> str:
            asked[f"{'judge' if is_judge(sent) else 'answer'} {sent.event}"] += 1
            if not is_judge(sent):
                return answer_text(sent.event)
            bad = sent.event == "event-4" or (sent.event == "event-3" and asked["judge event-3"] == 1)
            return "no JSON at all" if bad else ACCEPT

        answer_by(world, text)
        assert world.run() is Came.DONE
        succeeded = [Outcome.SUCCEEDED] * len(EVENTS)
        assert world.outcomes == [*succeeded[:4], Outcome.INVALID, *succeeded[5:]], mode
        assert (asked["judge event-3"], asked["judge event-4"], asked["answer event-3"]) == (2, 2, 1), mode


def test_a_draft_that_comes_once_more_is_not_judged_again_in_either_mode(make: MakeJudged) -> None:
    for mode in (Mode.BATCH, Mode.CONCURRENT):
        world = make(mode, JUDGED)
        asked = Counter[str]()

        def text(sent: Sent, asked: Counter[str] = asked) -> str:
            asked[f"{'judge' if is_judge(sent) else 'answer'} {sent.event}"] += 1
            if not is_judge(sent):
                return answer_text(sent.event)
            return REJECT if sent.event == "event-3" else ACCEPT

        answer_by(world, text)
        assert world.run() is Came.DONE
        assert world.outcomes[3] is Outcome.REJECTED
        assert (asked["answer event-3"], asked["judge event-3"]) == (2, 1), mode


def test_bundles_of_short_rows_keep_together_in_a_queue_of_few_tokens(make: MakeJudged) -> None:
    many = [f"event-{number}" for number in range(12)]
    world = make(Mode.BATCH, {"rows_per_request": 2}, many, limits={"max_enqueued_tokens": 900})
    sent: list[str] = []

    def reply(request: Sent) -> list[bytes]:
        records = re.findall(r'<record id="(\d+)">\n.*?(event-\d+)', request.body["messages"][1]["content"])
        assert records, "a row was asked for alone"
        sent.extend(event for _, event in records)
        return [ok(request, json.dumps({"results": [{"id": i, "summary": f"about {event}"} for i, event in records]}))]

    world.provider.reply = reply
    assert world.run() is Came.DONE
    assert [row["summarize_status"] for row in world.output()] == ["ok"] * len(many)
    assert sorted(sent) == sorted(many)


def test_a_call_that_waited_is_not_made_for_what_another_process_has_got(make: MakeJudged, tmp_path: Path) -> None:
    world = make(Mode.CONCURRENT, JUDGED)
    asked = Counter[str]()
    refused = {"answer event-3"}

    def call(sent: Sent, _: int) -> ItemResult:
        name = f"{'judge' if is_judge(sent) else 'answer'} {sent.event}"
        if name in refused:
            raise RateLimited("later", retry_after_seconds=60)
        asked[name] += 1
        return good_with(ACCEPT if is_judge(sent) else answer_text(sent.event))

    world.provider.call = call
    assert world.advance().came is Came.WAIT
    other, _, _ = open_fake(tmp_path / "world-0" / "config.json")
    other = replace(other, clock=world.clock, _connected=OnlyProvider(world.provider))
    refused.symmetric_difference_update({"answer event-3", "judge event-3"})
    assert advance(other, world.task_id).came is Came.WAIT
    other.close()
    refused.clear()
    world.clock.now += 120
    assert world.run() is Came.DONE
    assert asked["answer event-3"] == asked["judge event-3"] == 1


def test_a_row_that_falls_out_of_its_bundle_is_not_asked_for_what_another_job_has_got(
    make: MakeJudged, tmp_path: Path
) -> None:
    world = make(Mode.CONCURRENT, {**JUDGED, "rows_per_request": 2}, EVENTS[:2])
    refusal = ItemResult("", Outcome.REFUSED, "", USAGE, MODEL, "refusal", billed=True)
    alone, verdicts = Counter[str](), [refusal, refusal, good_with(ACCEPT), good_with(ACCEPT)]

    def call(sent: Sent, _: int) -> ItemResult:
        if is_judge(sent):
            return verdicts.pop(0)
        if "<record" in sent.body["messages"][1]["content"]:
            return good_with(json.dumps({"results": []}))
        alone[sent.event] += 1
        return good_with(answer_text(sent.event))

    world.provider.call = call
    assert world.run() is Came.DONE
    again = job_of(world, tmp_path / "world-0" / "events.csv", Mode.CONCURRENT)
    assert again.run() is Came.DONE
    assert [row["summarize_status"] for row in again.output()] == ["ok", "ok"]
    assert alone == {"event-0": 1, "event-1": 1}


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("mode", [Mode.BATCH, Mode.CONCURRENT])
def test_chunk_by_chunk_only_what_was_never_answered_is_asked(
    make: MakeJudged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode, together: int
) -> None:
    monkeypatch.setattr(questions, "CHUNK", 2)
    world = make(mode, {**JUDGED, "rows_per_request": together})
    folder, asked, bad = tmp_path / "world-0", Counter[str](), {"event-1", "event-4"}

    def text(sent: Sent) -> str:
        if is_judge(sent):
            asked["judge"] += 1
            first = sent.event in bad
            bad.discard(sent.event)
            return REJECT if first else ACCEPT
        records = re.findall(r'<record id="(\d+)">\n.*?(event-\d+)', sent.body["messages"][1]["content"])
        asked["answer"] += len(records) or 1
        if not records:
            return answer_text(sent.event if sent.event in bad or asked["judge"] == 0 else f"{sent.event}, again")
        return json.dumps({"results": [{"id": number, "summary": f"about {event}"} for number, event in records]})

    answer_by(world, text)
    assert world.run() is Came.DONE
    assert asked == {"answer": len(EVENTS) + 2, "judge": len(EVENTS) + 2}
    judge = folder / "prompt_lib" / "judge.yaml"
    judge.write_text(judge.read_text().replace("You check.", "You check with care."))
    for judged in (len(EVENTS), 0):  # of another judge, each draft; of a known one, nothing
        asked.clear()
        again = job_of(world, folder / "events.csv", mode)
        assert again.run() is Came.DONE
        assert (asked["answer"], asked["judge"]) == (0, judged)
        assert [row["summarize_status"] for row in again.output()] == ["ok"] * len(EVENTS)


def answer_by(world: World, text: Callable[[Sent], str]) -> None:
    """Answer in both ways."""
    world.provider.reply = lambda sent: [ok(sent, text(sent))]
    world.provider.call = lambda sent, _: good_with(text(sent))


def good_with(text: str) -> ItemResult:
    return ItemResult("", Outcome.SUCCEEDED, text, USAGE, MODEL, billed=True)
