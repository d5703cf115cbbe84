"""Faults of whole batches: what the product's clients see of each, per dialect, and what is billed."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from batch_jobs.models import BatchProblem, BatchState, Dialect, Outcome
from providers.sandbox.behaviour import Behaviour, Fault, FaultKind
from providers.sandbox.validation import LINE_CODES, MESSAGES
from tests.contract.sandbox.way import Way, on

# -- failed at the validation ---------------------------------------------------------------------------------


@on("openai-chat", "gemini")
def test_batch_fails_after_a_create_that_was_taken(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.BATCH_FAILS), batch_seconds=60)
    made = way.create()
    assert way.provider.check(made.batch_id).state is BatchState.IN_PROGRESS
    way.server.forward(60)
    view = way.ended(made.batch_id)
    assert view.state is BatchState.FAILED
    (problem,) = view.problems
    assert problem.code == ("RESOURCE_EXHAUSTED" if way.wire.dialect is Dialect.GEMINI else "token_limit_exceeded")
    assert "Enqueued token limit reached" in problem.message
    assert way.fetched(made.batch_id).files == []
    assert way.billed() == []


@on("openai-chat")
def test_batch_fails_with_each_code_of_a_validation(way: Way) -> None:
    for code, message in MESSAGES.items():
        way.server.faulty(Fault(FaultKind.BATCH_FAILS, code=code))
        view = way.ended(way.create().batch_id)
        assert view.problems == (BatchProblem(code, message, 1 if code in LINE_CODES else None),)
    way.server.faulty(Fault(FaultKind.BATCH_FAILS, code="url_mismatch", line=2, message="Another URL."))
    assert way.ended(way.create().batch_id).problems == (BatchProblem("url_mismatch", "Another URL.", 2),)


@on("gemini")
def test_batch_fails_with_geminis_own_codes(way: Way) -> None:
    for code, name in {"invalid_json_line": "INVALID_ARGUMENT", "14": "UNAVAILABLE", "odd_sim": "INTERNAL"}.items():
        way.server.faulty(Fault(FaultKind.BATCH_FAILS, code=code, message="Said so."))
        assert way.ended(way.create().batch_id).problems == (BatchProblem(name, "Said so."),)


@on("anthropic")
def test_batch_fails_as_errors_of_every_item(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.BATCH_FAILS, status=400, message="Said so."))
    made = way.create()
    assert way.ended(made.batch_id).counts.failed == 3
    fetched = way.fetched(made.batch_id)
    assert {(result.outcome, result.code, result.detail) for _, result in fetched.results} == {
        (Outcome.ERRORED, "invalid_request_error", "Said so.")
    }
    assert way.billed() == []


# -- ended before all is done ---------------------------------------------------------------------------------


def half_done(way: Way, fault: Fault, state: BatchState, outcome: Outcome) -> None:
    way.server.faulty(fault)
    made = way.create(items=8)
    view = way.ended(made.batch_id)
    anthropic = way.wire.dialect is Dialect.ANTHROPIC  # its batches only ever end
    assert view.state is (BatchState.COMPLETED if anthropic else state)
    assert (view.counts.total, view.counts.succeeded, view.counts.failed) == (8, 2, 6)
    fetched = way.fetched(made.batch_id)
    if way.wire.dialect is Dialect.GEMINI:
        assert fetched.files == []
    else:
        done = dict.fromkeys(("i0", "i1"), Outcome.SUCCEEDED)
        assert fetched.outcomes == done | {f"i{item}": outcome for item in range(2, 8)}
    assert way.billed() == ["i0", "i1"]


@on()
def test_batch_expires(way: Way) -> None:
    half_done(way, Fault(FaultKind.BATCH_EXPIRES, share=0.25), BatchState.EXPIRED, Outcome.EXPIRED)


@on()
def test_batch_cancelled(way: Way) -> None:
    half_done(way, Fault(FaultKind.BATCH_CANCELLED, share=0.25), BatchState.CANCELLED, Outcome.CANCELLED)


@on()
def test_a_cancelled_batch_keeps_what_was_done_before(way: Way) -> None:
    """The client's own wish to stop; half of the work is done by then."""
    way.server.behave(Behaviour(batch_seconds=1000))
    made = way.create(items=8)
    way.server.forward(575)
    way.provider.cancel(made.batch_id)
    assert not way.provider.check(made.batch_id).state.terminal
    way.server.forward(100)
    view = way.ended(made.batch_id)
    assert view.counts.failed == 4
    assert way.billed() == ["i0", "i1", "i2", "i3"]
    outcomes = list(way.fetched(made.batch_id).outcomes.values())
    kept = [] if way.wire.dialect is Dialect.GEMINI else [Outcome.SUCCEEDED, Outcome.CANCELLED]
    assert [outcomes.count(outcome) for outcome in kept] == [4] * len(kept)


# -- slow to show ---------------------------------------------------------------------------------------------


@on()
def test_batch_slow(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.BATCH_SLOW, seconds=86_400))
    made = way.create()
    way.server.forward(43_200)
    assert way.provider.check(made.batch_id).state is BatchState.IN_PROGRESS
    assert way.billed() == []
    way.server.forward(43_300)
    assert way.fetched(way.ended(made.batch_id).batch_id).ids == ["i0", "i1", "i2"]


@on()
def test_list_lag(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.LIST_LAG, seconds=5 * 60))
    made = way.create()
    assert way.found() == []
    assert way.ended(made.batch_id).counts.total == 3
    way.server.forward(5 * 60)
    assert [view.batch_id for view in way.found()] == [made.batch_id]


@on()
def test_unknown_state(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.UNKNOWN_STATE, seconds=600))
    gemini = way.wire.dialect is Dialect.GEMINI
    with pytest.warns(UserWarning, match="is not a valid JobState") if gemini else nullcontext():  # of its SDK
        made = way.create()
    way.server.forward(300)
    view = way.provider.check(made.batch_id)
    assert view.provider_state.lower().endswith("reviewing_sim")
    assert view.state is BatchState.IN_PROGRESS
    way.server.forward(300)
    assert way.fetched(way.ended(made.batch_id).batch_id).ids == ["i0", "i1", "i2"]


# -- results that are not as one expects ----------------------------------------------------------------------


@on()
def test_counts_lie(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.ITEM_ERROR, match="-i1"), Fault(FaultKind.COUNTS_LIE))
    made = way.create()
    counts = way.ended(made.batch_id).counts
    assert (counts.total, counts.succeeded, counts.failed) == (3, 3, 0)
    assert way.fetched(made.batch_id)["i1"].outcome is Outcome.ERRORED
    way.server.faulty(Fault(FaultKind.COUNTS_LIE))
    made = way.create()
    counts = way.ended(made.batch_id).counts
    assert (counts.total, counts.succeeded, counts.failed) == (3, 0, 3)
    assert set(way.fetched(made.batch_id).outcomes.values()) == {Outcome.SUCCEEDED}


@on()
def test_counts_lie_about_the_size(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.COUNTS_LIE, code="total"))
    made = way.create()
    assert way.ended(made.batch_id).counts.total == 10
    assert way.fetched(made.batch_id).ids == ["i0", "i1", "i2"]


@on()
def test_disorder(way: Way) -> None:
    way.server.behave(Behaviour(batch_seconds=0.05, shuffle=False))
    assert way.run(items=5).order == ["i0", "i1", "i2", "i3", "i4"]
    disorder = (Fault(FaultKind.DISORDER),)
    way.server.behave(Behaviour(batch_seconds=0.05, shuffle=False, faults=disorder))
    assert way.run(items=5).order == ["i4", "i3", "i2", "i1", "i0"]


@on()
def test_only_error_file(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.ONLY_ERROR_FILE, status=503, message="All of them."))
    fetched = way.run()
    assert fetched.files == (["errors.jsonl"] if way.wire.dialect is Dialect.OPENAI else ["results.jsonl"])
    assert {(result.outcome, result.detail) for _, result in fetched.results} == {(Outcome.ERRORED, "All of them.")}
    assert way.billed() == []


@on()
@pytest.mark.parametrize("empty", [False, True])
def test_no_files(way: Way, empty: bool) -> None:
    more = [Fault(FaultKind.EMPTY_IDS)] if empty else []
    way.server.faulty(Fault(FaultKind.NO_FILES), *more)
    made = way.create()
    view = way.ended(made.batch_id)
    assert (view.state, view.counts.succeeded) == (BatchState.COMPLETED, 3)
    assert way.fetched(made.batch_id).files == []
    assert way.billed() == ["i0", "i1", "i2"]
    raw = way.raw(made.batch_id)
    shown = {
        Dialect.OPENAI: lambda: [raw["output_file_id"], raw["error_file_id"]],
        Dialect.ANTHROPIC: lambda: [raw["results_url"]],
        Dialect.GEMINI: lambda: [raw["response"].get("responsesFile"), raw["metadata"]["output"].get("responsesFile")],
    }[way.wire.dialect]()
    assert set(shown) == {"" if empty else None}


@on()
def test_empty_ids(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.EMPTY_IDS))
    made = way.create()
    assert way.fetched(way.ended(made.batch_id).batch_id).ids == ["i0", "i1", "i2"]
    if way.wire.dialect is Dialect.OPENAI:  # no item failed
        assert way.raw(made.batch_id)["error_file_id"] == ""


@on("openai-chat")
def test_a_batch_may_have_both_files(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.ITEM_ERROR, match="-i1", status=400))
    fetched = way.run()
    assert fetched.files == ["output.jsonl", "errors.jsonl"]
    assert fetched.ids == ["i0", "i1", "i2"]
