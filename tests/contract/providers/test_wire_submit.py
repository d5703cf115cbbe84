"""Upload, create, find again, own: the verbs around the only moment where money is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from batch_jobs import errors
from batch_jobs.models import BatchState, BatchView, Dialect
from providers.connect import default_limits
from providers.contract import Provider, ShardFile
from providers.gemini import GeminiProvider
from providers.gemini_codec import GeminiCodec
from providers.openai import OpenAIProvider
from providers.openai_codec import OpenAICodec
from tests.contract.providers.conftest import custom_id
from tests.contract.providers.loopback import Loopback, Reply, Seen
from tests.contract.providers.wires import CREATED, KEY, LIVE_STATE, MODEL, SHARD_KEY, WIRES, Wire

SINCE = datetime(2026, 11, 21, 10, 0, 30, tzinfo=UTC)
FILE_ID = {Dialect.OPENAI: "file-1", Dialect.ANTHROPIC: None, Dialect.GEMINI: "files/f1"}


def _script_upload(loopback: Loopback, wire: Wire, size: int, *looks: Reply) -> str:
    """Script an upload and what a look at the file then shows; returns the path of the look."""
    if wire.dialect is Dialect.OPENAI:
        loopback.on("POST", "/v1/files", Reply(wire.file_reply("file-1", size)))
        path = "/v1/files/file-1"
    else:
        final = {"X-Goog-Upload-Status": "final"}
        loopback.on("POST", "/upload/v1/files", Reply({}, headers={"X-Goog-Upload-URL": f"{loopback.url}/put"}))
        loopback.on("POST", "/put", Reply({"file": {"name": "files/f1", "state": "PROCESSING"}}, headers=final))
        path = "/v1/files/f1"
    loopback.on("GET", path, *(looks or (Reply(wire.file_reply(FILE_ID[wire.dialect] or "", size)),)))
    return path


@pytest.fixture
def pauses() -> list[float]:
    """What the wait for an upload slept, without sleeping."""
    return []


@pytest.fixture
def patient(loopback: Loopback, wire: Wire, pauses: list[float]) -> Iterator[Provider]:
    """A client that writes its pauses down."""
    base_url, limits = loopback.url + wire.prefix, default_limits(wire.dialect)
    provider: Provider
    if wire.dialect is Dialect.OPENAI:
        codec = OpenAICodec(wire.endpoint)
        provider = OpenAIProvider(
            codec, limits, base_url=base_url, api_key=KEY, timeout_seconds=10, sleep=pauses.append
        )
    else:
        provider = GeminiProvider(
            GeminiCodec(),
            limits,
            model=MODEL,
            base_url=base_url,
            api_key=KEY,
            timeout_seconds=10,
            sleep=pauses.append,
        )
    yield provider
    provider.close()


UPLOADERS = [name for name, wire in WIRES.items() if wire.dialect is not Dialect.ANTHROPIC]


@pytest.mark.parametrize("wire", [WIRES[name] for name in UPLOADERS], ids=UPLOADERS)
class TestUpload:
    def test_sends_every_byte_under_the_shards_key(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
    ) -> None:
        _script_upload(loopback, wire, shard.bytes)
        assert provider.upload(shard) == FILE_ID[wire.dialect]
        content = shard.path.read_bytes()
        if wire.dialect is Dialect.OPENAI:
            body = loopback.seen[0].body
            assert content in body and b'name="purpose"\r\n\r\nbatch' in body
            assert f'filename="{SHARD_KEY}.jsonl"'.encode() in body
        else:
            start, data = loopback.seen[0], loopback.seen[1]
            assert SHARD_KEY in start.json()["file"].values()
            assert start.headers["x-goog-upload-header-content-type"] == "application/jsonl"
            assert start.headers["x-goog-upload-header-content-length"] == str(shard.bytes)
            assert data.body == content and data.headers["x-goog-upload-command"] == "upload, finalize"

    def test_waits_until_the_file_can_be_seen(
        self, loopback: Loopback, wire: Wire, patient: Provider, shard: ShardFile, pauses: list[float]
    ) -> None:
        unseen = Reply(wire.error(404, "not_found_error", "no such file"), 404)
        seen = Reply(wire.file_reply(FILE_ID[wire.dialect] or "", shard.bytes))
        path = _script_upload(loopback, wire, shard.bytes, unseen, unseen, seen)
        patient.upload(shard)
        assert loopback.count("GET", path) == 3
        assert len(pauses) == 2 and pauses[0] < pauses[1]

    def test_gives_up_after_a_bounded_wait(
        self, loopback: Loopback, wire: Wire, patient: Provider, shard: ShardFile, pauses: list[float]
    ) -> None:
        _script_upload(loopback, wire, shard.bytes, Reply(wire.error(404, "not_found_error", "no"), 404))
        with pytest.raises(errors.TimedOut):
            patient.upload(shard)
        assert 10 < sum(pauses) < 60

    def test_notices_that_bytes_are_missing(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
    ) -> None:
        _script_upload(loopback, wire, shard.bytes - 1)
        with pytest.raises(errors.UnreadableReply, match="bytes"):
            provider.upload(shard)

    def test_a_file_that_the_provider_refuses_is_rejected(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
    ) -> None:
        refused = {"id": "file-1", "status": "error", "status_details": "why", "name": "files/f1", "state": "FAILED"}
        _script_upload(loopback, wire, shard.bytes, Reply({**refused, "error": {"message": "why"}}))
        with pytest.raises(errors.RequestRejected, match="why"):
            provider.upload(shard)

    def test_is_posted_once_when_the_server_fails(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
    ) -> None:
        path = "/v1/files" if wire.dialect is Dialect.OPENAI else "/upload/v1/files"
        loopback.on("POST", path, Reply(wire.error(503, "UNAVAILABLE", "busy"), 503))
        with pytest.raises(errors.ServerFailed):
            provider.upload(shard)
        assert loopback.count("POST", path) == 1


def test_a_shard_that_changed_on_disk_is_never_sent(
    loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
) -> None:
    send = provider.upload if wire.dialect is not Dialect.ANTHROPIC else lambda it: provider.create_batch(it, None)
    with shard.path.open("ab") as handle:
        handle.write(b"{}\n")
    with pytest.raises(errors.StoreError, match="bytes"):
        send(shard)
    shard.path.unlink()
    with pytest.raises(errors.StoreError, match="can't be read"):
        send(shard)
    assert loopback.seen == []


def test_anthropic_has_no_upload(connected: Callable[..., Provider], loopback: Loopback, tmp_path: Any) -> None:
    shard = ShardFile(tmp_path / "x", SHARD_KEY, 1, 1, MODEL)
    assert connected(WIRES["anthropic"]).upload(shard) is None
    assert loopback.seen == []


def test_a_gemini_upload_without_its_url_is_unreadable(
    connected: Callable[..., Provider], loopback: Loopback, tmp_path: Any
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{}\n")
    loopback.on("POST", "/upload/v1/files", Reply({}))
    with pytest.raises(errors.UnreadableReply):
        connected(WIRES["gemini"]).upload(ShardFile(path, SHARD_KEY, 1, 3, MODEL))


class TestCreate:
    def test_carries_the_key_and_the_requests(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
    ) -> None:
        loopback.on("POST", wire.create, Reply(wire.batch_object(LIVE_STATE[wire.dialect])))
        view = provider.create_batch(shard, FILE_ID[wire.dialect])
        assert (view.batch_id, view.state) == (wire.batch_id, BatchState.IN_PROGRESS)
        body = loopback.seen[0].json()
        lines = [orjson.loads(line) for line in shard.path.read_bytes().splitlines()]
        expected: dict[Dialect, Any] = {
            Dialect.OPENAI: {
                "completion_window": "24h",
                "endpoint": wire.endpoint,
                "input_file_id": "file-1",
                "metadata": {"shard_key": SHARD_KEY},
            },
            Dialect.ANTHROPIC: {"requests": lines},
            Dialect.GEMINI: {"batch": {"displayName": SHARD_KEY, "inputConfig": {"fileName": "files/f1"}}},
        }
        assert body == expected[wire.dialect]

    @pytest.mark.parametrize("fault", ["503", "529", "429", "reset", "silence"])
    def test_is_posted_exactly_once_whatever_happens(
        self, loopback: Loopback, wire: Wire, connected: Callable[..., Provider], shard: ShardFile, fault: str
    ) -> None:
        replies = {"reset": Reply(reset=True), "silence": Reply(hang=True)}
        expected = {"reset": errors.ConnectionFailed, "silence": errors.TimedOut, "429": errors.RateLimited}
        refused = Reply(wire.error(0, "busy", "busy"), int(fault) if fault.isdecimal() else 0, {"Retry-After": "0"})
        loopback.on("POST", wire.create, replies.get(fault, refused))
        with pytest.raises(expected.get(fault, errors.ServerFailed)) as caught:
            connected(wire, timeout_seconds=0.3).create_batch(shard, FILE_ID[wire.dialect])
        assert loopback.count("POST", wire.create) == 1
        assert isinstance(caught.value, errors.ProviderError)
        assert caught.value.definite is (fault == "429")

    @pytest.mark.parametrize("reply", [{}, {"id": None, "name": ""}, {"id": 7}, []])
    def test_a_reply_without_an_id_is_unreadable(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile, reply: Any
    ) -> None:
        loopback.on("POST", wire.create, Reply(reply))
        with pytest.raises(errors.UnreadableReply) as caught:
            provider.create_batch(shard, FILE_ID[wire.dialect])
        assert not caught.value.definite

    @pytest.mark.parametrize("status", [400, 404, 413, 422])
    def test_a_refusal_is_definite(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile, status: int
    ) -> None:
        loopback.on("POST", wire.create, Reply(wire.error(status, "invalid_request_error", "no"), status))
        with pytest.raises(errors.RequestRejected) as caught:
            provider.create_batch(shard, FILE_ID[wire.dialect])
        assert caught.value.definite


def test_an_anthropic_create_streams_the_file_with_its_exact_length(
    loopback: Loopback, connected: Callable[..., Provider], tmp_path: Any
) -> None:
    provider = connected(WIRES["anthropic"])
    codec = provider.codec
    body = codec.widen(b'{"max_tokens":1,"messages":[{"role":"user","content":"' + b"x, \\n" * 700 + b'"}]}', 9)
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"".join(codec.encode_line(custom_id(item), body) for item in range(1000)))
    size = path.stat().st_size
    assert size > 3 << 20
    loopback.on("POST", "/v1/messages/batches", Reply(WIRES["anthropic"].batch_object("in_progress")))
    provider.create_batch(ShardFile(path, SHARD_KEY, 1000, size, MODEL), None)
    seen = loopback.seen[0]
    assert seen.headers["content-length"] == str(len(seen.body)) and "transfer-encoding" not in seen.headers
    assert seen.headers["content-type"] == "application/json"
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert orjson.loads(seen.body) == {"requests": lines}


KEYED = [name for name, wire in WIRES.items() if wire.dialect is not Dialect.ANTHROPIC]


@pytest.mark.parametrize("wire", [WIRES[name] for name in KEYED], ids=KEYED)
class TestFindByKey:
    def test_finds_exact_matches_newest_first_over_all_pages(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
    ) -> None:
        live = LIVE_STATE[wire.dialect]
        other = wire.batch_object(live, key=f"{SHARD_KEY}0", batch_id=f"{wire.batch_id}x")
        later = wire.batch_object(live, batch_id=f"{wire.batch_id}y")
        if wire.dialect is Dialect.OPENAI:
            later["created_at"] += 100
        else:
            later["metadata"]["createTime"] = "2026-11-21T10:05:00.123456789Z"
        first = wire.batch_object(live, batch_id=f"{wire.batch_id}z")
        loopback.on("GET", wire.listing, Reply(wire.page([other, first], "more")), Reply(wire.page([later])))
        found = provider.find_batches(shard, SINCE)
        assert [view.batch_id for view in found] == [f"{wire.batch_id}y", f"{wire.batch_id}z"]
        assert all(view.shard_key == SHARD_KEY and provider.owns(view, shard) is True for view in found)
        assert loopback.count("GET", wire.listing) == 2
        follow = loopback.seen[1].query
        assert follow.get("after") == f"{wire.batch_id}z" or follow.get("pageToken") == "more"

    def test_a_batch_without_the_key_is_not_owned(self, wire: Wire, provider: Provider, shard: ShardFile) -> None:
        assert provider.owns(BatchView("b", BatchState.IN_PROGRESS, "x", shard_key=None), shard) is False

    def test_finds_nothing_in_an_empty_list(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
    ) -> None:
        loopback.on("GET", wire.listing, Reply(wire.page([])))
        assert provider.find_batches(shard, SINCE) == []

    def test_a_page_that_repeats_itself_ends_the_listing(
        self, loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile
    ) -> None:
        page = wire.page([wire.batch_object("x", key="other")], "same")
        loopback.on("GET", wire.listing, Reply(page))
        assert provider.find_batches(shard, SINCE) == []
        assert loopback.count("GET", wire.listing) == 2


@pytest.mark.parametrize("name", ["openai-chat", "anthropic"])
def test_paging_stops_at_the_first_page_with_older_batches(
    loopback: Loopback, connected: Callable[..., Provider], tmp_path: Any, name: str
) -> None:
    wire = WIRES[name]
    old = wire.batch_object("x", key="other", created_at=1 if name == "openai-chat" else "2020-01-01T00:00:00Z")
    loopback.on("GET", wire.listing, Reply(wire.page([old], "more")))
    shard = ShardFile(tmp_path / "x", SHARD_KEY, 3, 1, MODEL)
    assert connected(wire).find_batches(shard, SINCE) == []
    assert loopback.count("GET", wire.listing) == 1


class TestAnthropicCandidates:
    wire = WIRES["anthropic"]

    @pytest.fixture
    def provider(self, connected: Callable[..., Provider]) -> Provider:
        return connected(self.wire)

    def _batch(self, name: str, count: int, created: str = CREATED) -> Any:
        counts = {"processing": count, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        return self.wire.batch_object("in_progress", batch_id=name, request_counts=counts, created_at=created)

    def test_are_of_the_shards_size_and_time(self, loopback: Loopback, provider: Provider, shard: ShardFile) -> None:
        batches = [
            self._batch("later", 3, "2026-11-21T11:00:00Z"),
            self._batch("other size", 4),
            self._batch("within the skew", 3),
            self._batch("too old", 3, "2026-11-21T09:49:00Z"),
        ]
        loopback.on("GET", self.wire.listing, Reply(self.wire.page(batches)))
        found = provider.find_batches(shard, SINCE)
        assert [view.batch_id for view in found] == ["later", "within the skew"]
        assert all(view.shard_key is None and provider.owns(view, shard) is None for view in found)

    @pytest.mark.parametrize(("ahead", "found"), [(0, 0), (19, 0), (21, 1), (-60, 0)])
    def test_are_looked_for_by_the_providers_own_clock(
        self, loopback: Loopback, provider: Provider, shard: ShardFile, ahead: int, found: int
    ) -> None:
        """Our clock is so many minutes ahead of theirs: a batch of half an hour ago, by ours, is younger by theirs."""
        theirs = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
        batch = self._batch("lost", 3, "2026-11-21T11:30:00Z")
        date = {"Date": "Sat, 21 Nov 2026 12:00:00 GMT"}
        loopback.on("GET", self.wire.listing, Reply(self.wire.page([batch]), headers=date))
        now = theirs + timedelta(minutes=ahead)
        since = datetime(2026, 11, 21, 12, 1, 0, tzinfo=UTC)
        assert len(provider.find_batches(shard, since, now)) == found

    @pytest.mark.parametrize(
        ("ids", "owned"),
        [
            ([custom_id(2), custom_id(0)], True),
            ([f"{SHARD_KEY}0-i1"], False),
            (["unsent-1", "other-r0-s1-i0", custom_id(0)], True),  # unknown ids among ours
            (["", custom_id(0)], True),  # a line that can't be read
            ([""], None),
            ([], None),
        ],
    )
    def test_are_proved_by_one_custom_id_of_their_results(
        self, loopback: Loopback, provider: Provider, shard: ShardFile, ids: list[str], owned: bool | None
    ) -> None:
        url = f"{loopback.url}{self.wire.batch}/results"
        loopback.on("GET", self.wire.batch, Reply(self.wire.batch_object("ended", results_url=url)))
        lines = [orjson.dumps({"custom_id": one, "result": {"type": "expired"}}) if one else b'{"custom' for one in ids]
        content = b"".join(line + b"\n" for line in lines)
        jsonl = {"Content-Type": "application/x-jsonl"}
        loopback.on("GET", f"{self.wire.batch}/results", Reply(content, headers=jsonl))
        view = BatchView(self.wire.batch_id, BatchState.COMPLETED, "ended")
        assert provider.owns(view, shard) is owned

    def test_without_results_are_neither_proved_nor_disproved(
        self, loopback: Loopback, provider: Provider, shard: ShardFile
    ) -> None:
        """An error would keep the candidates after it from being looked at."""
        loopback.on("GET", self.wire.batch, Reply(self.wire.batch_object("ended", results_url=None)))
        assert provider.owns(BatchView(self.wire.batch_id, BatchState.COMPLETED, "ended"), shard) is None


@pytest.mark.parametrize("skew", [timedelta(), timedelta(seconds=50)])
def test_a_batch_of_the_same_second_is_found(
    loopback: Loopback, wire: Wire, provider: Provider, shard: ShardFile, skew: timedelta
) -> None:
    loopback.on("GET", wire.listing, Reply(wire.page([wire.batch_object(LIVE_STATE[wire.dialect])])))
    since = datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC) + skew
    assert [view.batch_id for view in provider.find_batches(shard, since)] == [wire.batch_id]


def test_one_client_serves_many_threads(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def slow(seen: Seen) -> Reply:
        time.sleep(0.01)
        return Reply(wire.batch_object("x"))

    loopback.on("GET", wire.batch, slow)
    with ThreadPoolExecutor(8) as pool:
        views = list(pool.map(provider.check, [wire.batch_id] * 24))
    assert {view.batch_id for view in views} == {wire.batch_id}
