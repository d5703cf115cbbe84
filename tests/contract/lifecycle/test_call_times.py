"""How long the calls of a job took, as its report says: retries, a judge, a kill, jobs of which nothing is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from batch_jobs.errors import RateLimited
from batch_jobs.lifecycle.advance import Came
from batch_jobs.lifecycle.pool.artefacts import read_received
from batch_jobs.lifecycle.report.gather import gather
from batch_jobs.models import ItemResult, Mode
from batch_jobs.output.report_facts import Latency, Report
from batch_jobs.output.report_html import html_of
from batch_jobs.output.report_markdown import markdown_of
from batch_jobs.output.report_words import latency_text
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import (
    EVENTS,
    ITEMS,
    JUDGE_MODEL,
    JUDGED,
    Crash,
    Sent,
    World,
    answer_text,
    bad,
    good,
    job_of,
    open_fake,
    world_with,
)

Call = Callable[[Sent, int], ItemResult]
ACCEPT = json.dumps({"verdict": "accept", "score": 1, "feedback": ""})


def seconds_of(event: str) -> int:
    """How long a call for one takes here: 10, 20, ... seconds; far more than the test itself does."""
    return 10 * (1 + int(event.partition("-")[2]))


def takes(world: World, call: Call) -> Call:
    """A call that takes its event's time."""

    def taken(sent: Sent, number: int) -> ItemResult:
        world.clock.now += seconds_of(sent.event)
        return call(sent, number)

    return taken


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world(Mode.CONCURRENT)
    world.provider.call = takes(world, lambda sent, _: good(sent))
    return world


def received(world: World) -> Path:
    return world.project.workspace.calls_received(world.task_id)


def report_of(world: World) -> Report:
    return gather(world.project, world.task_id)


def latency_of(world: World) -> Latency:
    latency = report_of(world).latency
    assert latency is not None
    return latency


def test_each_call_counts_with_its_own_time(world: World) -> None:
    assert world.run() is Came.DONE
    latency = latency_of(world)
    (took,) = latency.series
    assert (took.calls, sum(took.counts), latency.unknown) == (ITEMS, ITEMS, 0)
    assert (took.quickest, took.median, took.p95, took.slowest) == pytest.approx((10, 30, 50, 60), abs=5)


def test_page_and_text_say_the_same_and_nothing_of_the_last_calls_alone(world: World) -> None:
    assert world.run() is Came.DONE
    report, said = report_of(world), latency_text(latency_of(world))
    page, text = html_of(report).decode(), markdown_of(report).decode()
    assert said.startswith("6 calls: half took up to 3")
    assert said in page
    assert f"How long calls took: {said}" in text
    assert "| seconds | calls |" in text
    assert "seconds of a call," not in page + text


def test_attempts_that_brought_nothing_are_no_calls_and_an_invalid_answer_is_one(world: World) -> None:
    def call(sent: Sent, number: int) -> ItemResult:
        if sent.event == "event-2" and number < 3:
            raise RateLimited("later")
        return bad(sent) if sent.event == "event-0" and number == 1 else good(sent)

    world.provider.call = takes(world, call)
    assert world.run() is Came.DONE
    (took,) = latency_of(world).series
    assert took.calls == ITEMS + 1 == report_of(world).costs.calls
    assert took.slowest == pytest.approx(60, abs=5)
    (third,) = [line for line in read_received(received(world)) if line["item"] == 2]
    assert (third["begun"], third["seconds"], third["last_seconds"]) == pytest.approx((3, 90, 30), abs=5)


def test_a_job_that_goes_on_after_a_kill_has_all_calls_but_half_a_line(world: World) -> None:
    def dies(sent: Sent, _: int) -> ItemResult:
        if sent.event == "event-3":
            raise Crash
        return good(sent)

    world.provider.call = takes(world, dies)
    with pytest.raises(Crash):
        world.run()
    before = received(world).read_bytes()
    assert before.count(b"\n") == world.spent.calls == 3  # what is counted is noted: no line waits for the others
    received(world).write_bytes(before[:-20])
    assert latency_of(world).unknown == 1
    world.project.close()
    config = world.project.workspace.store.parent / "config.json"
    project, provider, clock = open_fake(config)
    later = World(project, provider, clock, world.task_id)
    clock.now = world.clock.now + 3_600
    provider.call = takes(later, lambda sent, _: good(sent))
    assert later.run() is Came.DONE
    latency = latency_of(later)
    assert (latency.series[0].calls, latency.unknown) == (ITEMS - 1, 1)
    assert "How long 1 more took was not kept." in latency_text(latency)
    (broken,) = [line for line in received(later).read_bytes().splitlines() if not line.endswith(b"}")]
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(broken)
    project.close()


def test_calls_of_a_judge_are_told_from_those_for_answers(tmp_path: Path) -> None:
    world = world_with(tmp_path, Mode.CONCURRENT, JUDGED, [event for event in EVENTS if event.startswith("event")])

    def call(sent: Sent, _: int) -> ItemResult:
        is_judge = sent.body["model"] == JUDGE_MODEL
        world.clock.now += 5 if is_judge else 40
        result = good(sent)
        return ItemResult(
            "", result.outcome, ACCEPT if is_judge else answer_text(sent.event), result.usage, billed=True
        )

    world.provider.call = call
    try:
        assert world.run() is Came.DONE
        check_judged(report_of(world))
    finally:
        world.project.close()


def check_judged(report: Report) -> None:
    latency = report.latency
    assert latency is not None
    answers, verdicts = latency.series
    assert (answers.asks, answers.calls, verdicts.asks, verdicts.calls) == ("answers", ITEMS, "verdicts", ITEMS)
    assert (answers.quickest, verdicts.slowest) == pytest.approx((40, 5), abs=4)
    assert latency.unknown == 0
    text = markdown_of(report).decode()
    assert "6 calls for answers: half took up to 4" in text
    assert "6 calls for verdicts: half took up to 5" in text
    assert "| seconds | calls for answers | calls for verdicts |" in text


def test_a_job_without_calls_of_its_own_has_no_such_figure(world: World, make_world: MakeWorld) -> None:
    batch = make_world(Mode.BATCH)
    assert batch.run() is Came.DONE
    assert world.run() is Came.DONE
    known = job_of(world, world.project.workspace.upload(world.task_id, ".csv"), Mode.CONCURRENT)
    assert known.run() is Came.DONE
    for one in (batch, known):
        report = report_of(one)
        assert report.latency is None
        assert b"How long calls took" not in html_of(report) + markdown_of(report)


@pytest.mark.parametrize("left", [b"", b"\x00" * 4_096, b'{"item":0,"begu', b"[1]\nnull\n\xff\xfe\n", None])
def test_what_can_not_be_read_is_no_figure_and_no_error(world: World, left: bytes | None) -> None:
    assert world.run() is Came.DONE
    received(world).unlink()
    if left is not None:
        received(world).write_bytes(left)
    report = report_of(world)
    assert report.latency is None
    assert [name for name, _ in report.way.pool if name.startswith("seconds of a call")]
    assert b"How long calls took" not in html_of(report)


def test_a_job_of_an_older_version_has_no_such_figure(world: World) -> None:
    assert world.run() is Came.DONE
    lines = [{**line, "last_seconds": None} for line in read_received(received(world))]
    received(world).write_bytes(
        b"".join(
            orjson.dumps({name: value for name, value in line.items() if value is not None}) + b"\n" for line in lines
        )
    )
    assert report_of(world).latency is None
