"""Result files: all there are, whole, and only then under their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_jobs import errors
from batch_jobs.models import Dialect, Outcome
from providers.contract import Provider
from tests.contract.providers.loopback import Loopback, Reply
from tests.contract.providers.wires import WIRES, Wire
from tests.contract.results import result_lines

JSONL = {"Content-Type": "application/octet-stream"}
ENDED = {Dialect.OPENAI: "completed", Dialect.ANTHROPIC: "ended", Dialect.GEMINI: "BATCH_STATE_SUCCEEDED"}
LINES = b'{"custom_id":"a","key":"a"}\n{"custom_id":"b","key":"b"}\n'


def _script(loopback: Loopback, wire: Wire, reply: Reply, state: str | None = None) -> str:
    """A terminal batch with one result file; returns the name it gets."""
    state = state or ENDED[wire.dialect]
    if wire.dialect is Dialect.OPENAI:
        loopback.on("GET", wire.batch, Reply(wire.batch_object(state, output_file_id="file-o", error_file_id="")))
        loopback.on("GET", "/v1/files/file-o/content", reply)
        return "output.jsonl"
    if wire.dialect is Dialect.ANTHROPIC:
        url = f"{loopback.url}{wire.batch}/results"
        loopback.on("GET", wire.batch, Reply(wire.batch_object(state, results_url=url)))
        loopback.on("GET", f"{wire.batch}/results", reply)
    else:
        output = {"output": {"responsesFile": "files/batch-out1"}}
        loopback.on("GET", wire.batch, Reply(wire.batch_object(state, metadata=output)))
        loopback.on("GET", "/v1/files/batch-out1:download", reply)
    return "results.jsonl"


def test_a_file_is_fetched_byte_for_byte(loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path) -> None:
    name = _script(loopback, wire, Reply(LINES, headers=JSONL))
    files = provider.fetch(wire.batch_id, tmp_path)
    assert files == [tmp_path / name]
    assert files[0].read_bytes() == LINES
    assert list(result_lines(files)) == LINES.splitlines(keepends=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_large_file_comes_whole(loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path) -> None:
    big = b"".join(b'{"custom_id":"%d","x":"%s"}\n' % (item, b"y" * 1000) for item in range(5000))
    _script(loopback, wire, Reply(big, headers=JSONL))
    assert provider.fetch(wire.batch_id, tmp_path)[0].read_bytes() == big


def test_a_second_fetch_replaces_the_first(loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path) -> None:
    _script(loopback, wire, Reply(LINES, headers=JSONL))
    assert provider.fetch(wire.batch_id, tmp_path) == provider.fetch(wire.batch_id, tmp_path)


def test_a_last_line_without_a_newline_is_taken_when_it_is_whole(
    loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    _script(loopback, wire, Reply(LINES.rstrip(), headers=JSONL))
    assert provider.fetch(wire.batch_id, tmp_path)[0].read_bytes() == LINES.rstrip()


@pytest.mark.parametrize(
    "cut",
    [Reply(LINES, headers=JSONL, declared=len(LINES) + 50), Reply(LINES[:-9], headers=JSONL)],
    ids=["shorter than declared", "within a line"],
)
def test_a_truncated_file_is_transient_and_gets_no_name(
    loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path, cut: Reply
) -> None:
    _script(loopback, wire, cut)
    with pytest.raises(errors.UnreadableReply) as caught:
        provider.fetch(wire.batch_id, tmp_path)
    assert caught.value.transient
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_download_that_fails_is_told(loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path) -> None:
    _script(loopback, wire, Reply(wire.error(404, "not_found_error", "gone"), 404))
    with pytest.raises(errors.RequestRejected):
        provider.fetch(wire.batch_id, tmp_path)
    _script(loopback, wire, Reply(wire.error(503, "UNAVAILABLE", "busy"), 503))
    with pytest.raises(errors.ServerFailed):
        provider.fetch(wire.batch_id, tmp_path)


def test_a_disk_that_fails_is_our_store_and_not_the_provider(
    loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    _script(loopback, wire, Reply(LINES, headers=JSONL))
    with pytest.raises(errors.StoreError):
        provider.fetch(wire.batch_id, tmp_path / "missing")


EMPTY: list[tuple[str, str, dict[str, Any]]] = [
    ("openai-chat", "completed", {"output_file_id": None, "error_file_id": None}),
    ("openai-chat", "failed", {"output_file_id": "", "error_file_id": ""}),
    ("openai-chat", "cancelled", {}),
    ("anthropic", "ended", {"results_url": None}),
    ("gemini", "BATCH_STATE_EXPIRED", {}),
    ("gemini", "BATCH_STATE_FAILED", {"error": {"code": 3, "message": "m"}}),
    ("gemini", "BATCH_STATE_SUCCEEDED", {"metadata": {"output": {}}}),
]


@pytest.mark.parametrize(("wire", "state", "more"), [(WIRES[name], *rest) for name, *rest in EMPTY])
def test_a_terminal_batch_without_files_gives_none(
    loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path, state: str, more: dict[str, Any]
) -> None:
    loopback.on("GET", wire.batch, Reply(wire.batch_object(state, **dict(more))))
    assert provider.fetch(wire.batch_id, tmp_path) == []


@pytest.mark.parametrize("state", ["completed", "expired", "cancelled", "failed"])
@pytest.mark.parametrize("present", [("file-o",), ("file-e",), ("file-o", "file-e")])
def test_openai_gives_both_files_in_every_state(
    loopback: Loopback, connected: Callable[..., Provider], tmp_path: Path, state: str, present: tuple[str, ...]
) -> None:
    wire = WIRES["openai-chat"]
    ids = {"output_file_id": "file-o", "error_file_id": "file-e"}
    given: dict[str, Any] = {name: file_id if file_id in present else None for name, file_id in ids.items()}
    loopback.on("GET", wire.batch, Reply(wire.batch_object(state, **given)))
    for file_id in present:
        loopback.on("GET", f"/v1/files/{file_id}/content", Reply(LINES, headers=JSONL))
    files = connected(wire).fetch(wire.batch_id, tmp_path)
    names = {"file-o": "output.jsonl", "file-e": "errors.jsonl"}
    assert [path.name for path in files] == [names[file_id] for file_id in present]


def test_geminis_inlined_responses_become_lines(
    loopback: Loopback, connected: Callable[..., Provider], tmp_path: Path
) -> None:
    wire = WIRES["gemini"]
    inlined = [
        {"metadata": {"key": "a"}, "response": wire.answer()},
        {"metadata": {"key": "b"}, "error": {"code": 3, "message": "m"}},
    ]
    output = {"output": {"inlinedResponses": {"inlinedResponses": inlined}}}
    loopback.on("GET", wire.batch, Reply(wire.batch_object("BATCH_STATE_SUCCEEDED", metadata=output)))
    provider = connected(wire)
    results = [provider.codec.parse_line(line) for line in result_lines(provider.fetch(wire.batch_id, tmp_path))]
    assert [(result.custom_id, result.outcome) for result in results] == [
        ("a", Outcome.SUCCEEDED),
        ("b", Outcome.ERRORED),
    ]


def test_gemini_results_in_the_response_are_found_too(
    loopback: Loopback, connected: Callable[..., Provider], tmp_path: Path
) -> None:
    wire = WIRES["gemini"]
    loopback.on("GET", wire.batch, Reply(wire.batch_object("x", response={"responsesFile": "files/r"})))
    loopback.on("GET", "/v1/files/r:download", Reply(LINES))
    assert len(connected(wire).fetch(wire.batch_id, tmp_path)) == 1


def test_archived_anthropic_results_are_not_taken_for_none(
    loopback: Loopback, connected: Callable[..., Provider], tmp_path: Path
) -> None:
    wire = WIRES["anthropic"]
    archived = wire.batch_object("ended", archived_at="2026-12-20T10:00:00Z")
    loopback.on("GET", wire.batch, Reply(archived))
    with pytest.raises(errors.RequestRejected, match="archived"):
        connected(wire).fetch(wire.batch_id, tmp_path)


def test_lines_of_every_kind_can_be_parsed_after_a_fetch(
    loopback: Loopback, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    answers = {"a": wire.answer(), "b": wire.answer(ended="refusal")}
    wrap: dict[Dialect, Callable[[str, Any], Any]] = {
        Dialect.OPENAI: lambda one, body: {"custom_id": one, "response": {"status_code": 200, "body": body}},
        Dialect.ANTHROPIC: lambda one, body: {"custom_id": one, "result": {"type": "succeeded", "message": body}},
        Dialect.GEMINI: lambda one, body: {"key": one, "response": body},
    }
    lines = [json.dumps(wrap[wire.dialect](one, body)).encode() for one, body in answers.items()]
    _script(loopback, wire, Reply(b"\n".join(lines) + b"\n\n", headers=JSONL))
    results = [provider.codec.parse_line(line) for line in result_lines(provider.fetch(wire.batch_id, tmp_path))]
    assert [result.outcome for result in results] == [Outcome.SUCCEEDED, Outcome.REFUSED]
