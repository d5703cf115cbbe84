"""The sentences that people read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import click
import pytest

from batch_jobs.cli import show
from batch_jobs.config import ModelEntry, PriceEntry
from batch_jobs.lifecycle.grouping import GroupFigures
from batch_jobs.lifecycle.plan import PlanFigures
from batch_jobs.lifecycle.room import RoomWait
from batch_jobs.lifecycle.view import JobView
from batch_jobs.models import GroupMode, JobOutcome, Mode, Parameters, Phase, Status
from batch_jobs.storage.jobs import Job
from batch_jobs.table import FileKind, TableFormat

PRICE = PriceEntry(input=1, output=2, cached=0.5)
ENTRY = ModelEntry(standard=PRICE, batch=PRICE, source="the list", date=date(2026, 11, 21))
FIGURES = PlanFigures(
    rows=2_000,
    items=1_900,
    known=100,
    failed_rows=0,
    cut_rows=0,
    first_errors=[],
    shards=2,
    waves=1,
    input_tokens=1_234_567,
    output_tokens=89_000,
    batch_usd=0.41,
    concurrent_usd=0.82,
    mode=Mode.BATCH,
    why="as asked",
)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_COLOR", "1")
    yield


def a_job(**changes: Any) -> Job:
    job = Job(
        task_id="a" * 32,
        task="summarize",
        data_case="loss",
        provider="openai",
        dialect="openai",
        endpoint=None,
        model="model-1",
        parameters=Parameters(),
        mode=Mode.BATCH,
        account="",
        simulated=False,
        file_name="events.csv",
        file_sha256="",
        suffix=".csv",
        format=TableFormat(FileKind.TEXT, delimiter=";"),
        columns=("what", "summary"),
        output_columns={"summary": "summary_2", "": "summarize_status"},
        rows=2_000,
        created_at=0.0,
    )
    return replace(job, **changes)


def a_view(**changes: Any) -> JobView:
    values: dict[str, Any] = dict.fromkeys(JobView.__slots__)
    values.update(dict.fromkeys(["rows", "items", "sent", "from_cache", "answered_items", "failed_items"], 0))
    values["waits_for"] = {}
    values["waits_for_room"] = None
    values.update(dict.fromkeys(["succeeded", "failed", "cells_changed", "round", "unknown_outcomes", "calls"], 0))
    values.update(dict.fromkeys(["batch_done", "batch_total", "input_tokens", "cached_tokens", "output_tokens"], 0))
    values.update(reasons={}, first_failures=[], cost_usd=0.0, price_known=True, seconds=0.0, simulated=False)
    values.update(status=Status.DONE, phase=Phase.DONE, outcome=JobOutcome.COMPLETE, mode=Mode.BATCH)
    values.update(task_id="a" * 32, task="summarize", data_case="loss", provider="openai", model="model-1")
    values.update(file_name="events.csv", **changes)
    return JobView(**values)


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (2, "row", "2 rows"),
        (1_000_000, "row", "1,000,000 rows"),
        (1, "batch", "1 batch"),
        (2, "batch", "2 batches"),
        (0, "batch", "0 batches"),
        (12, "item", "12 items"),
    ],
)
def test_count(number: int, noun: str, text: str) -> None:
    assert show.count(number, noun) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "an unknown price"),
        (0, "$0.00"),
        (0.0001, "under $0.01"),
        (0.009, "under $0.01"),
        (0.01, "$0.01"),
        (0.414, "$0.41"),
        (0.999, "$1.00"),
        (1204, "$1,204.00"),
        (1234567.891, "$1,234,567.89"),
    ],
)
def test_money(usd: float | None, text: str) -> None:
    assert show.money(usd) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (8, "8 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (89, "1 min"),
        (91, "2 min"),
        (360, "6 min"),
        (3599, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86_400, "24 h 0 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


def test_a_line_is_a_label_and_a_text() -> None:
    assert show.line("plan", "text") == f"{'plan':<{show.LABEL_CHARS}}text"


def test_without_no_color_only_the_label_is_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    coloured = show.line("plan", "text", "red")
    assert coloured != click.unstyle(coloured) == f"{'plan':<{show.LABEL_CHARS}}text"
    assert coloured.endswith("text")


@pytest.mark.parametrize("name", ["events.csv", "a very long name of a spreadsheet.xlsx"])
def test_the_file_line_has_name_rows_format_and_columns(name: str) -> None:
    text = show.file_line(a_job(file_name=name))
    assert name in text
    assert "2,000 rows, utf-8, semicolon, 2 columns" in text


def plan_text(job: Job | None = None, entry: ModelEntry | None = ENTRY, **changes: Any) -> str:
    return "\n".join(show.plan_lines(job or a_job(), replace(FIGURES, **changes), entry))


def test_the_plan_says_what_is_sent_and_what_it_costs() -> None:
    text = plan_text()
    assert "2,000 rows = 1,900 items; 100 answered before, 1,800 to send in 2 batches" in text
    assert "batch: as asked" in text
    assert "$0.41 by batch" in text
    assert "$0.82 at once" in text
    assert "2026-11-21" in text
    assert "1,234,567" in text
    assert "89,000" in text


def test_the_plan_of_more_than_the_queue_takes() -> None:
    figures = replace(FIGURES, shards=8, waves=3)
    assert "to send in 8 batches, 3 waves: the provider's queue" in show.plan_lines(a_job(), figures, ENTRY)[0]
    assert "waves" not in show.plan_lines(a_job(), replace(figures, waves=1), ENTRY)[0]
    assert "waves" not in show.plan_lines(a_job(), replace(figures, mode=Mode.CONCURRENT), ENTRY)[0]


def test_batches_that_wait_for_room() -> None:
    room = RoomWait(2, 7, 3_000_000, 4_000_000)
    lines = show.status_lines(a_view(status=Status.PROCESSING, phase=Phase.RUNNING, waits_for_room=room))
    assert "waits         2 of 7 batches wait for room: 3.0M of 4.0M enqueued tokens" in lines


def test_the_plan_of_single_calls() -> None:
    text = plan_text(mode=Mode.CONCURRENT, known=0)
    assert "1,900 to send in single calls" in text
    assert "answered before" not in text


def test_a_plan_that_sends_nothing_speaks_of_no_cost() -> None:
    text = plan_text(known=1_900)
    assert "nothing to send" in text
    assert "cost" not in text


def test_a_model_without_a_price_is_said_to_be_one() -> None:
    text = plan_text(entry=None)
    assert "config.json has no price for model-1 (providers.openai.models)" in text
    assert "$" not in text


def test_rows_that_can_not_be_rendered_are_named_before_anything_is_sent() -> None:
    errors = [(number, f"KeyError: {number}") for number in range(2, 7)]
    text = plan_text(failed_rows=1_005, first_errors=errors)
    assert "1,005 rows can't be rendered (row 2: KeyError: 2; row 3: KeyError: 3; row 4: KeyError: 4)" in text


def test_a_rehearsal_says_so() -> None:
    text = plan_text(a_job(simulated=True))
    assert "simulated" in text
    assert "nothing is billed" in text


def test_a_column_that_had_to_be_renamed_is_said() -> None:
    """The file has a column `summary` already, so the answer goes to `summary_2`."""
    assert "summary_2" in plan_text()


def test_done() -> None:
    (text,) = show.done_lines(a_view(rows=2_000, succeeded=2_000, seconds=480, cost_usd=0.41))
    assert text.startswith("done")
    assert "2,000 of 2,000 rows answered, 8 min, $0.41" in text


def test_done_with_failures_names_the_first_and_counts_the_rest() -> None:
    view = a_view(
        rows=20,
        succeeded=8,
        failed=12,
        outcome=JobOutcome.PARTIAL,
        reasons={"refused by the model": 10, "provider error": 2},
        first_failures=[(number, "refused by the model") for number in range(2, 7)],
        cells_changed=1,
    )
    text = "\n".join(show.done_lines(view))
    assert "8 of 20 rows answered, 10 refused by the model, 2 provider error" in text
    assert "row 2: refused by the model" in text
    assert "and 7 more" in text
    assert "1 cell of ours" in text


def test_done_of_a_rehearsal_and_without_a_price() -> None:
    text = "\n".join(show.done_lines(a_view(rows=1, succeeded=1, simulated=True, price_known=False)))
    assert "1 of 1 row answered" in text
    assert "price unknown" in text
    assert "simulated" in text
    assert "$" not in text


def test_cancelled_is_not_called_done() -> None:
    (text,) = show.done_lines(a_view(outcome=JobOutcome.CANCELLED))
    assert text.startswith("cancelled")


def standing(**changes: Any) -> str:
    view = a_view(status=Status.PROCESSING, phase=Phase.RUNNING, outcome=None, **changes)
    return "\n".join(show.status_lines(view))


def test_the_status_of_a_batch_job() -> None:
    text = standing(round=1, provider_state="in_progress", batch_done=1_500, batch_total=2_000, eta_seconds=360)
    assert "round 2, in progress 1,500/2,000, about 6 min left" in text
    assert "processing" in text


def test_the_status_of_a_concurrent_job() -> None:
    assert "7 of 10 items answered" in standing(mode=Mode.CONCURRENT, answered_items=7, items=10)


def test_what_somebody_has_to_do_is_said() -> None:
    text = standing(message="top up the account", unknown_outcomes=1, waits_for={"b" * 32: 40}, output="/x/out.csv")
    assert "needs you" in text
    assert "top up the account" in text
    assert "1 batch may or may not have been accepted" in text
    assert "for 40 items that job bbbbbbbbbbbb has under way" in text
    assert "/x/out.csv" in text


@pytest.mark.parametrize(
    ("phase", "said"),
    [(Phase.RECEIVED, "not planned yet"), (Phase.PLANNED, "waits for the word"), (Phase.CANCELLING, "cancelling")],
)
def test_the_status_before_and_after_sending(phase: Phase, said: str) -> None:
    assert said in "\n".join(show.status_lines(a_view(status=Status.PENDING, phase=phase, outcome=None)))


def test_a_plan_speaks_of_its_groups() -> None:
    groups = GroupFigures(GroupMode.CONTEXT, ("kind", "year"), 33, 1, 1_545, 8_324_360, 0.374, 0.749)
    lines = show.plan_lines(a_job(), replace(FIGURES, grouped=groups), ENTRY)
    assert lines[1:4] == [
        "groups        33 by kind, year: each row sees its group",
        "left out      1,545 rows of 1 group in the prompts, as max_rows_per_group says",
        "caching       about 8,324,360 of the tokens in repeat their group: up to $0.37 less by batch, $0.75 at once, "
        "where the provider's cache hits",
    ]
    quiet = replace(groups, mode=GroupMode.OUTPUT, left_out_rows=0, repeated_tokens=0)
    assert show.plan_lines(a_job(), replace(FIGURES, grouped=quiet), ENTRY)[1:3] == [
        "groups        33 by kind, year: one answer a group",
        "mode          batch: as asked",
    ]
    unknown = replace(groups, batch_saving_usd=None, concurrent_saving_usd=None)
    assert show.plan_lines(a_job(), replace(FIGURES, grouped=unknown), ENTRY)[3][-18:] == "repeat their group"
