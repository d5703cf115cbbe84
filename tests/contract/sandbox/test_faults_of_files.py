"""Faults of uploads, downloads and deletions."""

from __future__ import annotations

import time
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors as genai_errors

from batch_jobs import errors
from batch_jobs.models import Dialect
from providers.sandbox.behaviour import Fault, FaultKind, Route
from tests.contract.sandbox.kit import Server
from tests.contract.sandbox.way import EVERY, IMPATIENT, Way, on


@on("openai-chat", "gemini")
def test_file_not_ready(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.FILE_NOT_READY, match=f"{way.server.key}-r0-s0-i1", seconds=0.3))
    start = time.monotonic()
    made = way.create()  # waits for its file
    assert time.monotonic() - start >= 0.3
    assert way.fetched(way.ended(made.batch_id).batch_id).ids == ["i0", "i1", "i2"]


# -- downloads ------------------------------------------------------------------------------------------------


def breaks(way: Way, fault: Fault, expected: type[errors.ProviderError], seconds: float = 20) -> None:
    """Meet a fault at the first download; nothing gets a result file's name before the second one, which is whole."""
    made = way.ended(way.create(items=40).batch_id)
    way.server.faulty(fault)
    with way.hurried(seconds) as hurried, pytest.raises(errors.ProviderError) as caught:
        hurried.fetched(made.batch_id)
    assert type(caught.value) is expected
    assert caught.value.transient
    assert not [path for path in way.folder.glob("*.jsonl") if "-r0-s0" not in path.name]
    assert len(way.fetched(made.batch_id).ids) == 40


@on()
@pytest.mark.parametrize("code", [None, "no_newline"])
def test_download_truncated(way: Way, code: str | None) -> None:
    match = f"{way.server.key}-r0-s0-i7"  # stands in the file, not in the request
    breaks(way, Fault(FaultKind.DOWNLOAD_TRUNCATED, code=code, match=match, times=1), errors.UnreadableReply)


@on()
def test_download_stalled(way: Way) -> None:
    start = time.monotonic()
    breaks(way, Fault(FaultKind.DOWNLOAD_STALLED, times=1), errors.TimedOut, seconds=IMPATIENT)
    assert time.monotonic() - start < 10


@on()
def test_a_stalled_download_that_is_closed_at_last(way: Way) -> None:
    breaks(way, Fault(FaultKind.DOWNLOAD_STALLED, seconds=0.1, times=1), errors.UnreadableReply)


@on()
def test_a_download_that_is_not_matched_is_whole(way: Way) -> None:
    way.server.faulty(
        Fault(FaultKind.DOWNLOAD_TRUNCATED, match="another-r0-s0"),
        Fault(FaultKind.DOWNLOAD_STALLED, match="another-r0-s0"),
    )
    assert way.run().ids == ["i0", "i1", "i2"]


# -- deletions ------------------------------------------------------------------------------------------------


def delete(way: Way, name: str) -> None:
    """Delete what one of `Way.kept` names."""
    server = way.server
    if way.wire.dialect is Dialect.OPENAI:
        with server.openai() as client:
            assert client.files.delete(name).deleted
    elif way.wire.dialect is Dialect.ANTHROPIC:
        with server.anthropic() as other:
            assert other.messages.batches.delete(name).type == "message_batch_deleted"
    else:
        with server.gemini() as google:
            google.files.delete(name=name)


def refused(way: Way, name: str) -> int:
    """The status of a deletion that is refused."""
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError, genai_errors.APIError)) as caught:
        delete(way, name)
    error: Any = caught.value
    return int(error.code if way.wire.dialect is Dialect.GEMINI else error.status_code)


@on()
def test_what_is_kept_can_be_deleted(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.ITEM_ERROR, match="-i1"))
    made = way.ended(way.create().batch_id)
    kept = way.kept()
    assert len(kept) == {Dialect.OPENAI: 3, Dialect.ANTHROPIC: 1, Dialect.GEMINI: 2}[way.wire.dialect]
    for name in kept:
        delete(way, name)
    assert way.kept() == []
    assert way.billed() == ["i0", "i2"]
    with pytest.raises(errors.ProviderError) as caught:
        way.fetched(made.batch_id)
    gone = 403 if way.wire.dialect is Dialect.GEMINI else 404
    assert caught.value.status == gone
    assert [refused(way, name) for name in kept] == [gone] * len(kept)


def test_files_are_told_apart_by_their_keys(server: Server) -> None:
    with server.openai() as client, server.openai("stranger") as other:
        mine = client.files.create(file=("mine.jsonl", b"{}\n"), purpose="batch")
        other.files.create(file=("other.jsonl", b"{}\n"), purpose="batch")
        shown = server.get(f"files?key={server.key}")
        assert [(file["file_id"], file["name"]) for file in shown["files"]] == [(mine.id, "mine.jsonl")]
        assert (shown["counts"], shown["total"], shown["bytes"]) == ({"openai": 1}, 1, 3)
        assert server.get("files")["total"] >= 2
        with pytest.raises(openai.NotFoundError):
            other.files.delete(mine.id)


@on("anthropic")
def test_a_batch_under_way_is_not_deleted(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.BATCH_SLOW, seconds=3600))
    made = way.create()
    assert refused(way, made.batch_id) == 400
    way.server.forward(4000)
    delete(way, way.ended(made.batch_id).batch_id)
    assert way.found() == []


@on("gemini")
def test_long_file_id(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.LONG_FILE_ID))
    made = way.ended(way.create().batch_id)
    assert way.fetched(made.batch_id).ids == ["i0", "i1", "i2"]
    (uploaded, output) = way.kept()
    assert len(output.removeprefix("files/")) == 42
    assert refused(way, output) == 400
    delete(way, uploaded)
    assert way.kept() == [output]


@on()
def test_the_client_deletes_all_that_is_kept(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.ITEM_ERROR, match="-i1"))
    made = way.ended(way.create().batch_id)
    uploaded = way.kept()[0]
    for _ in ("deleted", "gone already"):
        way.provider.discard(made.batch_id, uploaded)
        assert way.kept() == []


@on("gemini")
def test_the_client_deletes_what_it_can_beside_a_long_file_id(way: Way) -> None:
    way.server.faulty(Fault(FaultKind.LONG_FILE_ID))
    made = way.ended(way.create().batch_id)
    uploaded, output = way.kept()
    with pytest.raises(errors.RequestRejected, match="40 characters"):
        way.provider.discard(made.batch_id, uploaded)
    assert way.kept() == [output]


REFUSALS = {
    FaultKind.SERVER_ERROR: (503, 503, 503),
    FaultKind.AUTH_REFUSED: (401, 401, 403),
    FaultKind.RATE_LIMITED: (429, 429, 429),
}


@on()
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_deletion_can_be_refused(way: Way, kind: FaultKind) -> None:
    way.ended(way.create().batch_id)
    kept = way.kept()
    way.server.faulty(Fault(kind, route=Route.DELETE, times=1))
    assert refused(way, kept[-1]) == dict(zip(EVERY, REFUSALS[kind], strict=True))[way.wire.name]
    assert way.kept() == kept
    delete(way, kept[-1])
    assert way.kept() == kept[:-1]


@on()
def test_the_client_is_told_that_a_deletion_is_refused(way: Way) -> None:
    made = way.ended(way.create().batch_id)
    kept = way.kept()
    way.server.faulty(Fault(FaultKind.SERVER_ERROR, route=Route.DELETE, times=1))
    with pytest.raises(errors.ServerFailed):
        way.provider.discard(made.batch_id, kept[0])
    assert len(way.kept()) == (1 if kept else 0)  # the one that was refused; the others are gone all the same
    way.provider.discard(made.batch_id, kept[0])
    assert way.kept() == []
