"""Faults of items: each shows in its own line, in its dialect's way, and the other items are untouched."""

from __future__ import annotations

import json

import pytest

from batch_jobs import errors
from batch_jobs.models import Dialect, ItemResult, Outcome
from providers.sandbox.behaviour import Fault, FaultKind
from providers.sandbox.packs import Entry
from tests.contract.sandbox.kit import FAST, SCHEMA, prompt, tells_on
from tests.contract.sandbox.test_sandbox_packs import asked, call, pack_text, packed_form
from tests.contract.sandbox.way import Fetched, Way, on

HIT = "-i1"
ALL_WIRES = ("openai-chat", "openai-responses", "anthropic", "gemini")


def hit(way: Way, kind: FaultKind, code: str | None = None) -> Fetched:
    """Run three items of which the second one meets a fault; the others have their own answers."""
    way.server.faulty(Fault(kind, match=HIT, code=code))
    fetched = way.run()
    for item in (0, 2):
        result = fetched[f"i{item}"]
        assert result.outcome is Outcome.SUCCEEDED
        assert tells_on(json.loads(result.text)["summary"], item)
    return fetched


@on()
def test_item_missing(way: Way) -> None:
    assert hit(way, FaultKind.ITEM_MISSING).ids == ["i0", "i2"]
    assert way.billed() == ["i0", "i2"]


@on()
def test_item_doubled(way: Way) -> None:
    assert hit(way, FaultKind.ITEM_DOUBLED).ids == ["i0", "i1", "i1", "i2"]
    assert way.billed() == ["i0", "i1", "i2"]


@on()
@pytest.mark.parametrize("code", [None, "replace"])
def test_item_unknown_id(way: Way, code: str | None) -> None:
    fetched = hit(way, FaultKind.ITEM_UNKNOWN_ID, code)
    known = [name for name in fetched.ids if name in {"i0", "i1", "i2"}]
    assert known == (["i0", "i2"] if code else ["i0", "i1", "i2"])
    (stray,) = [result for name, result in fetched.results if name not in known]
    assert stray.custom_id.startswith("unsent-sim-")
    assert tells_on(json.loads(stray.text)["summary"], 1)


@on()
@pytest.mark.parametrize("code", [None, "replace"])
def test_bad_line(way: Way, code: str | None) -> None:
    fetched = hit(way, FaultKind.BAD_LINE, code)
    assert fetched.unreadable == 1
    assert fetched.ids == (["i0", "i2"] if code else ["i0", "i1", "i2"])


# -- errors ---------------------------------------------------------------------------------------------------

TOLD = {
    Dialect.OPENAI: {400: "invalid_request_error", 429: "requests", 500: "server_error"},
    Dialect.ANTHROPIC: {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error"},
    Dialect.GEMINI: {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"},
}


@on()
@pytest.mark.parametrize("status", [None, 400, 429])
def test_item_error(way: Way, status: int | None) -> None:
    way.server.faulty(Fault(FaultKind.ITEM_ERROR, match=HIT, status=status, message="Said so."))
    fetched = way.run()
    result = fetched["i1"]
    assert (result.outcome, result.detail, result.billed) == (Outcome.ERRORED, "Said so.", False)
    assert result.code == TOLD[way.wire.dialect][status or 500]
    assert result.transient is (status != 400)
    assert way.billed() == ["i0", "i2"]
    if way.wire.dialect is Dialect.OPENAI:
        (line,) = (way.folder / "errors.jsonl").read_bytes().splitlines()
        assert json.loads(line)["error"] is None  # the status alone tells


@on("openai-chat", "anthropic")
def test_item_error_with_a_code(way: Way) -> None:
    code = "insufficient_quota" if way.wire.dialect is Dialect.OPENAI else "enforced_spend_limit_reached"
    way.server.faulty(Fault(FaultKind.ITEM_ERROR, match=HIT, status=429, code=code))
    assert way.run()["i1"].code == code


@on()
def test_many_items_with_one_equal_error(way: Way) -> None:
    words = "Your credit balance is too low to access the API. (simulated)"
    way.server.faulty(Fault(FaultKind.ITEM_ERROR, status=400, message=words))
    results = [result for _, result in way.run(items=20).results]
    assert len(results) == 20
    assert {(result.outcome, result.code, result.detail) for result in results} == {(Outcome.ERRORED, low(way), words)}
    assert way.billed() == []


def low(way: Way) -> str:
    """Anthropic tells a low balance by its words; that is read as its own code."""
    return "billing_error" if way.wire.dialect is Dialect.ANTHROPIC else TOLD[way.wire.dialect][400]


@on()
def test_item_status_zero(way: Way) -> None:
    result = hit(way, FaultKind.ITEM_STATUS_ZERO)["i1"]
    assert (result.outcome, result.transient, result.billed) == (Outcome.ERRORED, True, False)
    if way.wire.dialect is Dialect.OPENAI:
        (line,) = (way.folder / "errors.jsonl").read_bytes().splitlines()
        assert json.loads(line)["response"] | {"request_id": ""} == {"status_code": 0, "request_id": "", "body": {}}


@on()
def test_item_expired(way: Way) -> None:
    result = hit(way, FaultKind.ITEM_EXPIRED)["i1"]
    # Gemini knows no expired line: it says that the deadline has passed.
    assert result.outcome is (Outcome.ERRORED if way.wire.dialect is Dialect.GEMINI else Outcome.EXPIRED)
    assert (result.transient, result.billed) == (True, False)
    assert way.billed() == ["i0", "i2"]


# -- answers that are none; they are executed and billed ------------------------------------------------------


def executed(way: Way, kind: FaultKind, code: str | None = None) -> list[ItemResult]:
    """The same fault in a batch and in a single call."""
    results = [hit(way, kind, code)["i1"]]
    way.server.faulty(Fault(kind, match="platform1 ", code=code))
    results.append(way.call(1))
    assert way.call(2).outcome is Outcome.SUCCEEDED
    assert way.billed() == ["i0", "i1", "i2"]
    assert all(result.billed for result in results)
    return results


@on(*ALL_WIRES)
def test_item_refused(way: Way) -> None:
    for result in executed(way, FaultKind.ITEM_REFUSED):
        assert (result.outcome, result.transient) == (Outcome.REFUSED, False)


@on(*ALL_WIRES)
def test_item_truncated(way: Way) -> None:
    for result in executed(way, FaultKind.ITEM_TRUNCATED):
        assert result.outcome is Outcome.TRUNCATED
        assert result.text.startswith("{") and not result.text.endswith("}")


@on(*ALL_WIRES)
@pytest.mark.parametrize("code", [None, "schema"])
def test_item_invalid_json(way: Way, code: str | None) -> None:
    for result in executed(way, FaultKind.ITEM_INVALID_JSON, code):
        assert result.outcome is Outcome.SUCCEEDED  # whether an answer fits is not the wire's to say
        if code:
            assert "summary" not in json.loads(result.text)
        else:
            with pytest.raises(ValueError):
                json.loads(result.text)


# -- one record of a packed request ---------------------------------------------------------------------------

ROWS = {str(at): prompt(at) for at in (1, 2, 3)}


def packed(way: Way, kind: FaultKind, code: str | None = None) -> tuple[list[Entry], list[Entry]]:
    """The records' answers with a fault and without."""
    request = asked(pack_text(ROWS), packed_form(SCHEMA))
    way.server.behave(FAST)
    whole = call(way, request)["results"]
    way.server.faulty(Fault(kind, code=code))
    spoilt = call(way, request)["results"]
    assert spoilt == call(way, request)["results"]  # the same record each time
    return whole, spoilt


@on()
@pytest.mark.parametrize("code", [None, "2"])
def test_pack_missing(way: Way, code: str | None) -> None:
    whole, spoilt = packed(way, FaultKind.PACK_MISSING, code)
    (gone,) = [entry for entry in whole if entry not in spoilt]
    assert [entry for entry in whole if entry is not gone] == spoilt
    assert code in {None, gone["id"]}


@on()
@pytest.mark.parametrize("code", [None, "2"])
def test_pack_foreign(way: Way, code: str | None) -> None:
    whole, spoilt = packed(way, FaultKind.PACK_FOREIGN, code)
    ((own, stray),) = [pair for pair in zip(whole, spoilt, strict=True) if pair[0] != pair[1]]
    assert stray == {**own, "id": f"unsent-sim-{own['id']}"}
    assert code in {None, own["id"]}


@on()
@pytest.mark.parametrize("code", [None, "2"])
def test_pack_doubled(way: Way, code: str | None) -> None:
    whole, spoilt = packed(way, FaultKind.PACK_DOUBLED, code)
    (second,) = [entry for entry in spoilt if entry not in whole]
    assert [entry for entry in spoilt if entry is not second] == whole
    (first,) = [entry for entry in whole if entry["id"] == second["id"]]
    assert second == {**first, "summary": f"{first['summary']} (revised)"}
    assert code in {None, first["id"]}


@on()
@pytest.mark.parametrize("code", [None, "2"])
def test_pack_invalid(way: Way, code: str | None) -> None:
    whole, spoilt = packed(way, FaultKind.PACK_INVALID, code)
    ((own, broken),) = [pair for pair in zip(whole, spoilt, strict=True) if pair[0] != pair[1]]
    assert broken == {"id": own["id"], "simulated_other_shape": True}
    assert code in {None, own["id"]}


@on()
def test_faults_of_packs_spare_other_requests_and_add_up(way: Way) -> None:
    way.server.faulty(
        Fault(FaultKind.PACK_MISSING, code="9", times=1),
        Fault(FaultKind.PACK_MISSING, code="1", times=1),
        Fault(FaultKind.PACK_INVALID, code="2", times=1),
        Fault(FaultKind.ITEM_REFUSED, times=1),
    )
    request = asked(pack_text(ROWS), packed_form(SCHEMA))
    assert way.call(0).outcome is Outcome.REFUSED  # no pack: no fault of packs is used up, nor keeps others away
    both = call(way, request)["results"]
    assert [(entry["id"], "summary" in entry) for entry in both] == [("2", False), ("3", True)]
    assert len(call(way, request)["results"]) == 3
    assert [
        entry["id"]
        for entry in call(way, asked(pack_text({"9": prompt(9), "8": prompt(8)}), packed_form(SCHEMA)))["results"]
    ] == ["8"]


@on(*ALL_WIRES)
def test_errors_of_items_meet_single_calls(way: Way) -> None:
    before = way.server.singles()
    way.server.faulty(Fault(FaultKind.ITEM_ERROR, match="platform1 ", status=422, message="Said so."))
    result = way.call(1)
    assert (result.outcome, result.detail) == (Outcome.ERRORED, "Said so.")
    way.server.faulty(Fault(FaultKind.ITEM_STATUS_ZERO, match="platform1 "))
    with pytest.raises(errors.ServerFailed):
        way.call(1)
    assert way.server.singles() == before
