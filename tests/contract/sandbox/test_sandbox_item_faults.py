"""Each fault of an item shows in its line, for every dialect in that dialect's way; the others are untouched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from providers.sandbox.behaviour import Fault, FaultKind
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import Server

COUNT = 3
HIT = "hit-1"  # the item that the faults match

Lines = list[Any]
Run = Callable[..., tuple[Lines, Lines]]


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    """Run a batch with faults; give the raw lines of its (output, error) files."""

    def raw(text: str) -> Lines:
        return [json.loads(line) if line.endswith("}") else line for line in text.splitlines()]

    def openai_run() -> tuple[Lines, Lines]:
        with server.openai() as client:
            batch = kit.openai_ended(client, kit.openai_create(client, kit.openai_lines("hit", COUNT)))
            files = (batch.output_file_id, batch.error_file_id)
            good, bad = (raw(client.files.content(file).text) if file else [] for file in files)
            return good, bad

    def anthropic_run() -> tuple[Lines, Lines]:
        with server.anthropic() as client:
            made = client.messages.batches.create(requests=kit.anthropic_requests("hit", COUNT))
            url = kit.anthropic_ended(client, made.id).results_url
        return raw(server.http.get(url, headers={"x-api-key": server.key}).text), []

    def gemini_run() -> tuple[Lines, Lines]:
        with server.gemini() as client:
            name = kit.gemini_create(client, tmp_path, kit.gemini_lines("hit", COUNT))
            job = kit.gemini_ended(client, name)
            return raw(client.files.download(file=job.dest.file_name).decode()), []

    runs = {"openai": openai_run, "anthropic": anthropic_run, "gemini": gemini_run}

    def go(dialect: str, *faults: Fault) -> tuple[Lines, Lines]:
        server.faulty(*faults)
        return runs[dialect]()

    return go


def ids(lines: Lines) -> list[str]:
    found = (line.get("custom_id") or line.get("key") for line in lines if isinstance(line, dict))
    return sorted(str(each) for each in found)


def of(lines: Lines, custom_id: str = HIT) -> Any:
    return next(line for line in lines if custom_id in (line.get("custom_id"), line.get("key")))


DIALECTS = ("openai", "anthropic", "gemini")
ALL = ["hit-0", "hit-1", "hit-2"]
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


@every_dialect
def test_item_error(run: Run, server: Server, dialect: str) -> None:
    before = len(server.billed("hit-"))
    good, bad = run(dialect, Fault(FaultKind.ITEM_ERROR, match=HIT, status=429))
    line = of(good + bad)
    shown: dict[str, Callable[[], Any]] = {
        "openai": lambda: (line["response"]["status_code"], line["error"]) == (429, None) and of(bad),
        "anthropic": lambda: line["result"]["error"]["error"]["type"] == "rate_limit_error",
        "gemini": lambda: line["error"]["code"] == 8,
    }
    assert shown[dialect]()
    assert len(server.billed("hit-")) == before + 2


@every_dialect
def test_item_status_zero(run: Run, dialect: str) -> None:
    good, bad = run(dialect, Fault(FaultKind.ITEM_STATUS_ZERO, match=HIT))
    line = of(good + bad)
    if dialect == "openai":
        assert (line["response"]["status_code"], line["response"]["body"]) == (0, {})
    elif dialect == "anthropic":
        assert line["result"]["error"]["error"]["type"] == "api_error"
    else:
        assert line["error"]["code"] == 13


@every_dialect
def test_item_refused(run: Run, dialect: str) -> None:
    line = of(run(dialect, Fault(FaultKind.ITEM_REFUSED, match=HIT))[0])
    if dialect == "openai":
        message = line["response"]["body"]["choices"][0]["message"]
        assert message["content"] is None
        assert "simulated refusal" in message["refusal"]
    elif dialect == "anthropic":
        assert line["result"]["message"]["stop_reason"] == "refusal"
    else:
        assert line["response"]["promptFeedback"]["blockReason"] == "PROHIBITED_CONTENT"
        assert "candidates" not in line["response"]


def answer(dialect: str, line: Any) -> tuple[str, str]:
    """Text and stop reason."""
    if dialect == "openai":
        return kit.openai_text(line), line["response"]["body"]["choices"][0]["finish_reason"]
    if dialect == "anthropic":
        message = line["result"]["message"]
        return message["content"][0]["text"], message["stop_reason"]
    return kit.gemini_text(line), line["response"]["candidates"][0]["finishReason"]


@every_dialect
def test_item_truncated(run: Run, dialect: str) -> None:
    text, reason = answer(dialect, of(run(dialect, Fault(FaultKind.ITEM_TRUNCATED, match=HIT))[0]))
    assert reason == {"openai": "length", "anthropic": "max_tokens", "gemini": "MAX_TOKENS"}[dialect]
    with pytest.raises(ValueError):
        json.loads(text)


@every_dialect
def test_item_expired(run: Run, dialect: str) -> None:
    good, bad = run(dialect, Fault(FaultKind.ITEM_EXPIRED, match=HIT))
    line = of(good + bad)
    if dialect == "openai":
        assert (line["response"], line["error"]["code"]) == (None, "batch_expired")
    elif dialect == "anthropic":
        assert line["result"] == {"type": "expired"}
    else:
        assert line["error"]["code"] == 4


def test_share_is_the_same_items_each_time(run: Run) -> None:
    missing = [set(ALL) - set(ids(run("openai", Fault(FaultKind.ITEM_MISSING, share=0.5))[0])) for _ in range(2)]
    assert missing[0] == missing[1]
    assert not ids(run("openai", Fault(FaultKind.ITEM_MISSING, share=1.0))[0])


def test_times_counts_hits(run: Run, server: Server) -> None:
    fault = Fault(FaultKind.ITEM_REFUSED, times=2, dialect=None)
    lines, _ = run("anthropic", fault)
    reasons = sorted(line["result"]["message"]["stop_reason"] for line in lines)
    assert reasons == ["end_turn", "refusal", "refusal"]
    with server.anthropic() as client:
        assert client.messages.create(**kit.message_params(1)).stop_reason == "end_turn"
        server.http.post(f"{server.url}/sandbox/forget").raise_for_status()
        assert client.messages.create(**kit.message_params(1)).stop_reason == "refusal"


def test_a_fault_of_one_dialect_spares_the_others(run: Run) -> None:
    fault = Fault(FaultKind.ITEM_MISSING, dialect=None, match="nowhere")
    assert ids(run("openai", fault)[0]) == ALL


def test_item_faults_meet_single_calls(server: Server) -> None:
    server.faulty(
        Fault(FaultKind.ITEM_ERROR, match="platform1 ", status=500),
        Fault(FaultKind.ITEM_TRUNCATED, match="platform2 "),
    )
    with server.openai() as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**kit.chat_body(1))
        assert client.chat.completions.create(**kit.chat_body(2)).choices[0].finish_reason == "length"
        assert client.responses.create(**kit.responses_body(2)).status == "incomplete"
        assert client.responses.create(**kit.responses_body(3)).status == "completed"
    server.faulty(Fault(FaultKind.ITEM_REFUSED))
    with server.openai() as client:
        part: Any = client.responses.create(**kit.responses_body(2)).output[0]
        assert part.content[0].type == "refusal"
    server.faulty(Fault(FaultKind.ITEM_ERROR, status=529))
    with server.anthropic() as other, pytest.raises(anthropic.APIStatusError) as caught:
        other.messages.create(**kit.message_params(1))
    assert caught.value.status_code == 529
