"""The process: where it listens, what outlives a kill -9, when it stops."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from providers.sandbox.behaviour import Behaviour, Fault, FaultKind
from providers.sandbox.server import CannotServe, serve
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import Server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone."""
    server = Server(tmp_path / "state")
    server.state.mkdir()
    server.start()
    yield server
    server.end()
    server.http.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com", "::"])
def test_only_loopback_is_served(tmp_path: Path, host: str) -> None:
    with pytest.raises(CannotServe, match="loopback"):
        serve(host=host, port=0, state=tmp_path, behaviour=Behaviour())


def test_it_says_where_it_is_and_cleans_up(own: Server) -> None:
    assert own.process is not None
    announced = json.loads((own.state / "server.json").read_text())
    assert announced["pid"] == own.process.pid
    assert announced["url"] == f"http://127.0.0.1:{announced['port']}"
    health = own.http.get(f"{own.url}/sandbox/healthz")
    assert health.json() == {"status": "ok", "simulated": True, "pid": own.process.pid}
    assert health.headers["x-simulated"] == "true"
    with pytest.raises(CannotServe, match="Another sandbox uses"):
        serve(host="127.0.0.1", port=0, state=own.state, behaviour=Behaviour())
    own.end()
    assert not (own.state / "server.json").exists()


def test_it_stops_when_idle(tmp_path: Path) -> None:
    server = Server(tmp_path, idle_seconds=1.5)
    server.start()
    assert server.process is not None
    server.get("healthz")
    assert server.process.wait(kit.WAIT_SECONDS) == 0
    assert not (tmp_path / "server.json").exists()
    server.http.close()


def test_a_kill_loses_neither_batches_nor_the_bill(own: Server, tmp_path: Path) -> None:
    with own.openai() as client, own.gemini() as google:
        done = kit.openai_create(client, kit.openai_lines("done", 3))
        kit.openai_ended(client, done)
        own.behave(Behaviour(batch_seconds=3.0))
        under_way = kit.openai_create(client, kit.openai_lines("way", 3))
        name = kit.gemini_create(google, tmp_path, kit.gemini_lines("gem", 2))
    billed = own.get("bill")
    own.end(signal.SIGKILL)
    assert (own.state / "server.json").exists()
    own.start()
    assert own.get("bill")["calls"] >= billed["calls"] == 3
    with own.openai() as client, own.gemini() as google:
        assert {batch.id for batch in client.batches.list()} == {done, under_way}
        good, _ = kit.openai_results(client, kit.openai_ended(client, under_way))
        assert len(good) == 3
        kit.gemini_ended(google, name)
    assert own.get("bill")["calls"] == 8


def test_a_kill_in_the_middle_of_an_execution_bills_once(own: Server) -> None:
    count = 6000
    own.behave(Behaviour(batch_seconds=0.0, faults=(Fault(FaultKind.ITEM_REFUSED, times=3),)))
    lines = [
        {"custom_id": f"k-{index}", "params": {**kit.message_params(index), "system": "s" * 50}}
        for index in range(count)
    ]
    with own.anthropic() as client:
        made: Any = client.messages.batches.create(requests=lines)  # type: ignore[arg-type]
    asked = threading.Thread(target=_ask_in_vain, args=(own,))
    asked.start()
    results = own.state / "results" / f"{made.id}_output.partial"
    kit.wait_for(lambda: results.exists() and results.stat().st_size > 100_000, "half of the results")
    own.end(signal.SIGKILL)
    asked.join()
    own.start()
    assert own.get("bill")["calls"] == count
    with own.anthropic() as client:
        batch = client.messages.batches.retrieve(made.id)
        reasons = [_stop(line) for line in client.messages.batches.results(made.id)]
    assert batch.request_counts.succeeded == count
    assert reasons.count("refusal") == 3


def _ask_in_vain(own: Server) -> None:
    with pytest.raises(Exception, match=r"disconnected|reset|refused"):
        own.get("bill")


def _stop(line: Any) -> str:
    return str(line.result.message.stop_reason)


def test_hits_of_a_fault_outlive_a_kill(own: Server) -> None:
    fault = Fault(FaultKind.ITEM_REFUSED, times=1)
    own.behaviour = Behaviour(faults=(fault,))
    own.faulty(fault)
    with own.anthropic() as client:
        assert client.messages.create(**kit.message_params(1)).stop_reason == "refusal"
    own.end(signal.SIGKILL)
    own.start()
    with own.anthropic() as client:
        assert client.messages.create(**kit.message_params(1)).stop_reason == "end_turn"


def test_others_are_served_while_a_long_batch_is_executed(own: Server) -> None:
    own.behave(Behaviour(batch_seconds=0.0))
    with own.openai() as client:
        kit.openai_create(client, kit.openai_lines("long", 8000))
    asked = threading.Thread(target=lambda: own.get("bill"))
    asked.start()
    slowest = 0.0
    while asked.is_alive():
        start = time.monotonic()
        own.get("healthz")
        slowest = max(slowest, time.monotonic() - start)
    assert own.get("bill")["calls"] == 8000
    assert 0 < slowest < 1


def test_a_call_is_cheap(own: Server) -> None:
    with own.openai() as client:
        client.chat.completions.create(**kit.chat_body(0))
        before = _cpu_seconds(own)
        for index in range(150):
            client.chat.completions.create(**kit.chat_body(index))
        spent = (_cpu_seconds(own) - before) / 150
    assert spent < 0.006  # 3 ms is the aim; a busy machine gets some air


def _cpu_seconds(own: Server) -> float:
    assert own.process is not None
    fields = Path(f"/proc/{own.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_behaviour_can_be_read_and_set(own: Server) -> None:
    wanted = Behaviour(batch_seconds=2, faults=(Fault(FaultKind.HANG, seconds=1),))
    own.behave(wanted)
    assert Behaviour.from_json(own.http.get(f"{own.url}/sandbox/behaviour").content) == wanted
    reply = own.http.put(f"{own.url}/sandbox/behaviour", content=b'{"faults": [{"kind": "nonsense"}]}')
    assert reply.status_code == 422
    assert "faults.0.kind" in reply.json()["error"]


def test_the_clock_can_be_put_forward_for_good(own: Server) -> None:
    own.behave(Behaviour(batch_seconds=86_400))
    with own.openai() as client:
        batch_id = kit.openai_create(client, kit.openai_lines("day", 2))
        assert own.forward(86_000) == 86_000
        assert client.batches.retrieve(batch_id).status == "finalizing"
        own.end(signal.SIGKILL)
        own.start()
        assert own.forward(1000) == 87_000
    with own.openai() as client:
        assert client.batches.retrieve(batch_id).status == "completed"
    for seconds in ("-1", "nan", "soon", ""):
        assert own.http.post(f"{own.url}/sandbox/forward", params={"seconds": seconds}).status_code == 422
