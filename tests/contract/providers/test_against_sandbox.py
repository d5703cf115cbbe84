"""The whole way of a shard through every wire, with the sandbox as a process behind it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batch_jobs import errors
from batch_jobs.models import BatchState, BatchView, Dialect, Outcome
from providers.connect import connect
from providers.contract import Provider, ShardFile
from providers.sandbox import base_url
from providers.sandbox.behaviour import Behaviour, Fault, FaultKind, Route
from tests.contract.providers.conftest import a_request
from tests.contract.providers.wires import KEY, MODEL, WIRES, Wire
from tests.contract.results import result_lines

SERVE = """
import sys
from pathlib import Path
from providers.sandbox.behaviour import Behaviour
from providers.sandbox.server import serve
serve(host="127.0.0.1", port=0, state=Path(sys.argv[1]), behaviour=Behaviour.from_json(sys.argv[2]),
      idle_exit_seconds=120)
"""
ITEMS = {
    "i0": (None, Outcome.SUCCEEDED),
    "i1": (FaultKind.ITEM_REFUSED, Outcome.REFUSED),
    "i2": (FaultKind.ITEM_TRUNCATED, Outcome.TRUNCATED),
    "i3": (FaultKind.ITEM_ERROR, Outcome.ERRORED),
    "i4": (FaultKind.ITEM_EXPIRED, Outcome.EXPIRED),
    "i5": (FaultKind.ITEM_STATUS_ZERO, Outcome.ERRORED),
}
BEHAVIOUR = Behaviour(
    batch_seconds=0.1,
    faults=(
        *(Fault(kind, match=f"mixed-r0-s0-{item}") for item, (kind, _) in ITEMS.items() if kind),
        Fault(FaultKind.BATCH_SLOW, match="slow-r0-s0", seconds=5),
        Fault(FaultKind.REPLY_LOST, route=Route.CREATE, match="lost-r0-s0"),
        Fault(FaultKind.BATCH_FAILS, match="failing-r0-s0"),
        Fault(FaultKind.FILE_NOT_READY, match="late-r0-s0", seconds=0.05),
    ),
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("sandbox")
    command = [sys.executable, "-c", SERVE, str(state), BEHAVIOUR.to_json().decode()]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3])
    try:
        yield _url(process, state / "server.json")
    finally:
        process.terminate()
        process.wait(20)


def _url(process: subprocess.Popen[bytes], announced: Path) -> str:
    end = time.monotonic() + 30
    while not announced.exists():
        assert process.poll() is None and time.monotonic() < end, "the sandbox did not start"
        time.sleep(0.02)
    return str(json.loads(announced.read_bytes())["url"])


@pytest.fixture
def provider(sandbox: str, wire: Wire) -> Iterator[Provider]:
    client = connect(
        wire.dialect,
        endpoint=wire.endpoint,
        model=MODEL,
        base_url=base_url(wire.dialect, sandbox),
        api_key=f"{KEY}-{wire.name}",
        timeout_seconds=20,
    )
    yield client
    client.close()


def _shard(provider: Provider, folder: Path, task: str, items: int = 3) -> ShardFile:
    key = f"{task}-r0-s0"
    body = [provider.codec.encode_body(a_request(f"Crew {item} stopped the leak.")) for item in range(items)]
    lines = [provider.codec.encode_line(f"{key}-i{item}", body[item]) for item in range(items)]
    path = folder / f"{key}.jsonl"
    path.write_bytes(b"".join(lines))
    return ShardFile(path, key, items, path.stat().st_size, MODEL)


def _ended(provider: Provider, batch_id: str) -> BatchView:
    """Look until the batch is terminal; a look is the only way to be told."""
    end = time.monotonic() + 20
    while not (view := provider.check(batch_id)).state.terminal:
        assert time.monotonic() < end, f"{batch_id} did not end"
        time.sleep(0.02)
    return view


def test_the_whole_way_of_a_shard(wire: Wire, provider: Provider, tmp_path: Path) -> None:
    started = datetime.now(UTC)
    shard = _shard(provider, tmp_path, "mixed", len(ITEMS))
    file_id = provider.upload(shard)
    assert (file_id is None) is (wire.dialect is Dialect.ANTHROPIC)
    made = provider.create_batch(shard, file_id)
    found = provider.find_batches(shard, started)
    assert [view.batch_id for view in found] == [made.batch_id]
    view = _ended(provider, made.batch_id)
    assert (view.state, view.counts.total) == (BatchState.COMPLETED, len(ITEMS))
    assert provider.owns(view, shard) is True
    files = provider.fetch(made.batch_id, tmp_path)
    results = [provider.codec.parse_line(line) for line in result_lines(files)]
    assert len(results) == len(ITEMS)
    outcomes = {result.custom_id.rpartition("-")[2]: result.outcome for result in results}
    expected = {item: outcome for item, (_, outcome) in ITEMS.items()}
    if wire.dialect is Dialect.GEMINI:  # its lines know no expiry: an error with a deadline
        expected["i4"] = outcomes["i4"]
        assert outcomes["i4"] in {Outcome.ERRORED, Outcome.EXPIRED}
    assert outcomes == expected
    for result in results:
        assert result.billed is (result.usage.output_tokens > 0 or result.usage.input_tokens > 0)
        assert result.transient is (result.outcome in {Outcome.ERRORED, Outcome.EXPIRED})
    answered = next(result for result in results if result.outcome is Outcome.SUCCEEDED)
    assert set(json.loads(answered.text)) == {"summary"} and answered.billed


def test_a_lost_reply_is_found_again(provider: Provider, tmp_path: Path) -> None:
    started = datetime.now(UTC)
    shard = _shard(provider, tmp_path, "lost", 4)
    with pytest.raises(errors.ConnectionFailed) as caught:
        provider.create_batch(shard, provider.upload(shard))
    assert not caught.value.definite
    (found,) = provider.find_batches(shard, started)
    assert provider.owns(_ended(provider, found.batch_id), shard) is True


def test_another_shards_batch_is_not_owned(provider: Provider, tmp_path: Path) -> None:
    mine, other = _shard(provider, tmp_path, "mine"), _shard(provider, tmp_path, "other")
    view = provider.create_batch(other, provider.upload(other))
    assert provider.owns(_ended(provider, view.batch_id), mine) is False


def test_a_cancelled_batch_ends_and_can_be_fetched(wire: Wire, provider: Provider, tmp_path: Path) -> None:
    shard = _shard(provider, tmp_path, "slow")
    view = provider.create_batch(shard, provider.upload(shard))
    assert not provider.check(view.batch_id).state.terminal
    provider.cancel(view.batch_id)
    ended = _ended(provider, view.batch_id)
    assert ended.state is (BatchState.COMPLETED if wire.dialect is Dialect.ANTHROPIC else BatchState.CANCELLED)
    results = [provider.codec.parse_line(line) for line in result_lines(provider.fetch(view.batch_id, tmp_path))]
    assert {result.outcome for result in results} <= {Outcome.CANCELLED, Outcome.SUCCEEDED}


KEYED = [name for name, wire in WIRES.items() if wire.dialect is not Dialect.ANTHROPIC]


@pytest.mark.parametrize("wire", [WIRES[name] for name in KEYED], ids=KEYED)
def test_a_failed_batch_says_why(provider: Provider, tmp_path: Path) -> None:
    shard = _shard(provider, tmp_path, "failing")
    view = _ended(provider, provider.create_batch(shard, provider.upload(shard)).batch_id)
    assert view.state is BatchState.FAILED and view.problems[0].message
    assert provider.fetch(view.batch_id, tmp_path) == []


def test_an_upload_that_shows_late_is_waited_for(provider: Provider, tmp_path: Path) -> None:
    shard = _shard(provider, tmp_path, "late")
    view = provider.create_batch(shard, provider.upload(shard))
    assert _ended(provider, view.batch_id).counts.succeeded == 3


def test_a_single_call_answers_like_a_batch(provider: Provider) -> None:
    result = provider.complete(provider.codec.encode_body(a_request("Crew 7 stopped the leak.")))
    assert (result.outcome, result.custom_id, result.billed) == (Outcome.SUCCEEDED, "", True)
    assert set(json.loads(result.text)) == {"summary"}


def test_an_unknown_batch_is_rejected(wire: Wire, provider: Provider) -> None:
    with pytest.raises(errors.RequestRejected) as caught:
        provider.check(wire.batch_id)
    assert caught.value.status == 404
