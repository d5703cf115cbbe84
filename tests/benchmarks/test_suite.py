"""The benchmark suite runs: its server speaks to the real SDK, its measuring sees what is there, its lines come out.

No figure is judged here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from benchmarks import measure, report
from benchmarks.__main__ import LINES
from benchmarks.lines import Outcome, Unit, Verdict, at_least
from benchmarks.stage import KEY, Server, loopback_server
from tests.conftest import REPOSITORY

QUICK = ("render", "merge", "folders", "xlsx", "calls")
HELD_BYTES = 60_000_000
HOLDER = f"""
import subprocess, sys
code = "held = bytearray({HELD_BYTES}); print('ready', flush=True); input()"
subprocess.run([sys.executable, "-c", code])
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with loopback_server("--per-minute", "120") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    server.reset()
    with openai.OpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0) as made:
        yield made


def request_line(number: int, text: str) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return orjson.dumps(
        {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body},
        option=orjson.OPT_APPEND_NEWLINE,
    )


def test_a_batch_comes_back_with_an_answer_for_every_request(client: openai.OpenAI, server: Server) -> None:
    content = b"".join(request_line(number, f"{number}\r\n--boundary") for number in range(100))
    kept = client.files.create(file=("input.jsonl", content), purpose="batch")
    assert kept.bytes == len(content)
    batch = client.batches.create(input_file_id=kept.id, endpoint="/v1/chat/completions", completion_window="24h")
    ended = client.batches.retrieve(batch.id)
    assert ended.status == "completed"
    assert ended.output_file_id is not None
    lines = [orjson.loads(line) for line in client.files.content(ended.output_file_id).content.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"row-{number}" for number in range(100)]
    for line in lines:
        answer = orjson.loads(line["response"]["body"]["choices"][0]["message"]["content"])
        assert line["custom_id"] in answer["summary"]
    seen = server.stats()
    assert (seen["batched"], seen["uploads"], seen["upload_bytes"]) == (100, 1, len(content))


def test_a_peers_chunk_is_answered_under_its_own_id(client: openai.OpenAI) -> None:
    chunk = orjson.dumps([{"input_id": "0000007", "input_text": "x"}]).decode()
    for text in (chunk, chunk.replace('":"', '": "')):
        reply = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
        assert orjson.loads(reply.choices[0].message.content or "")["all_results"][0]["input_id"] == "0000007"


def test_calls_above_the_limit_are_refused_with_openais_headers(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(1_000):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["x-ratelimit-limit-requests"]) == ("1", "120")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    seen = server.stats()
    assert (seen["throttled"], seen["calls"]) == (1, seen["answered"] + 1)
    assert seen["last_call_at"] >= seen["first_call_at"] > 0
    assert seen["cpu_seconds"] > 0


def test_memory_is_summed_over_the_process_tree() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        assert len(measure.tree(holder.pid)) == 2
        assert measure.pss_bytes(holder.pid) < HELD_BYTES < measure.tree_bytes(holder.pid)
        holder.communicate(b"\n")
    assert measure.tree_bytes(holder.pid) == 0


def python(code: str, **more: Any) -> measure.Sample:
    return measure.run([sys.executable, "-c", code], cwd=REPOSITORY, **more)


def test_a_program_is_measured_and_its_report_read() -> None:
    sample = python("print('on the way'); print('{\"rows\": 3}')")
    assert sample.report == {"rows": 3}
    assert sample.seconds > 0
    assert sample.cpu_seconds > 0


def test_a_program_that_fails_is_no_figure() -> None:
    with pytest.raises(measure.ProgramFailed, match="ended with 7: what went wrong"):
        python("import sys; sys.stderr.write('what went wrong'); sys.exit(7)")
    assert python("raise SystemExit(3)", expected=(0, 3)).report == {}


def test_a_program_is_ended_at_its_limit() -> None:
    with pytest.raises(measure.TookTooLong):
        python("input_never_comes = __import__('threading').Event().wait()", limit_seconds=0.3)


def test_pairs_run_in_turn_until_the_budget_is_spent() -> None:
    order: list[str] = []

    def run(name: str) -> measure.Sample:
        order.append(name)
        return measure.Sample(len(order), 0, 10 * len(order), 0, {})

    one, other = measure.interleaved([lambda: run("a"), lambda: run("b")], 3, 3_600)
    assert order == ["a", "b"] * 3
    assert (measure.fastest(one).seconds, measure.fastest(other).peak_bytes) == (1, 60)
    assert [len(each) for each in measure.interleaved([lambda: run("a")], 3, 0)] == [1]


def test_what_a_partial_run_leaves_out_stays_in_the_results(tmp_path: Path) -> None:
    order = [line.name for line in LINES]
    old = [Outcome(name, "old", Unit.TIMES, 1, at_least(2), run="then") for name in ("startup", "plan", "job")]
    path = tmp_path / "results.json"
    path.write_bytes(orjson.dumps(report.results([*old, Outcome("gone", "old", Unit.TIMES, 1)])))
    fresh = Outcome("job", "new", Unit.TIMES, 3, run="now")
    kept = report.kept(path, [fresh], order)
    assert [(outcome.line, outcome.what) for outcome in kept] == [("plan", "old"), ("job", "new"), ("startup", "old")]
    assert report.kept(tmp_path / "none.json", [fresh], order) == [fresh]


@pytest.mark.parametrize("arguments", [("--only", "plna"), ("--rows", "many")])
def test_a_wrong_argument_is_told(arguments: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=REPOSITORY, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert arguments[1] in ended.stderr


def test_the_lines_run_on_tiny_data(tmp_path: Path) -> None:
    chosen = [word for name in QUICK for word in ("--only", name)]
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--rows",
        "500",
        "--repeats",
        "1",
        "--folder",
        str(tmp_path),
        "--json",
    ]
    page = (REPOSITORY / "docs" / "performance.md").read_bytes()
    ended = subprocess.run([*command, *chosen], cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert ended.returncode in {0, 1}, ended.stderr
    outcomes = orjson.loads(ended.stdout)["outcomes"]
    assert {outcome["line"] for outcome in outcomes} == set(QUICK)
    for outcome in outcomes:
        assert outcome["verdict"] in {Verdict.MET, Verdict.SHORT, Verdict.MISSED}, outcome
        assert outcome["product"]["seconds"] > 0
        assert "Scaled down" in outcome["run"]
    assert (ended.returncode == 1) == any(outcome["verdict"] == Verdict.MISSED for outcome in outcomes)
    assert not list(tmp_path.iterdir())
    assert (REPOSITORY / "docs" / "performance.md").read_bytes() == page, "a scaled run is no figure"
