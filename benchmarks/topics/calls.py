"""The concurrent path: against a bare thread pool where the server costs nothing, and at a provider's rate limit."""

from __future__ import annotations

from typing import Any

from benchmarks.lines import Line, Outcome, Side, Unit, at_least, at_most, ratio
from benchmarks.measure import Sample
from benchmarks.stage import PRODUCT, Server, Stage, loopback_server, run_arguments

WORKERS = 20
QUICK_ROWS = 3_000
LIMITED_ROWS = 3_600
PER_MINUTE = 3_000
DELAY_MS = 200
BY_SERVER = "from the first call's arrival to the last answer, by the server's clock"
SOME_ROWS_FAILED = 3


def _run(stage: Stage, server: Server, rows: int) -> tuple[Sample, dict[str, Any]]:
    """A whole concurrent job; what it took, and what the server saw."""
    project = stage.project("calls")
    server.reset()
    arguments = run_arguments(
        stage.table(rows), "--mode", "concurrent", "--json", "--output", str(project / "output.csv")
    )
    sample = stage.command_line(
        *arguments,
        project=project,
        environ={**server.environ, "BATCH_JOBS__CONCURRENT__MAX_WORKERS": str(WORKERS)},
        expected=(0, SOME_ROWS_FAILED),
    )
    stats = server.stats()
    stage.drop(project)
    return sample, stats


def _side(name: str, sample: Sample, stats: dict[str, Any]) -> Side:
    seconds = float(stats["last_call_at"]) - float(stats["first_call_at"])
    return Side(name, seconds, int(stats["answered"]), sample.peak_bytes)


def quick_line(stage: Stage) -> list[Outcome]:
    """20 workers, answers at once: calls a second against a bare thread pool around the same SDK."""
    rows, server = stage.rows(QUICK_ROWS), stage.server
    file, into = stage.table(rows), stage.folder / "calls.jsonl"
    given = {"file": file, "into": into, "workers": WORKERS, "base_url": f"{server.url}/v1"}
    mine: list[Side] = []
    floor: list[Side] = []

    def product() -> Sample:
        sample, stats = _run(stage, server, rows)
        mine.append(_side(PRODUCT, sample, stats))
        return sample

    def bare() -> Sample:
        server.reset()
        sample = stage.program("floors", "calls", given)
        floor.append(_side("thread pool", sample, server.stats()))
        return sample

    stage.alternate(product, bare)
    best, other = (max(sides, key=lambda side: side.rows_per_second) for sides in (mine, floor))
    what = f"concurrent, {rows:,} rows, {WORKERS} workers, server at 0 ms"
    return [ratio("calls", what, best, other, at_least(0.9), BY_SERVER)]


def limit_line(stage: Stage) -> list[Outcome]:
    """A server that takes 200 ms a call and 3,000 calls a minute, and answers 429 above."""
    rows = stage.rows(LIMITED_ROWS)
    with loopback_server("--delay-ms", str(DELAY_MS), "--per-minute", str(PER_MINUTE)) as server:
        sample, stats = _run(stage, server, rows)
    product = _side(PRODUCT, sample, stats)
    allowed = (
        (product.seconds - DELAY_MS / 1000 + 1) * PER_MINUTE / 60
    )  # what it takes in, and the second it begins with
    failed = rows - int(sample.report["succeeded"])
    what = f"concurrent, {rows:,} rows, {DELAY_MS} ms, {PER_MINUTE:,} requests/min"
    used, refused = 100 * product.rows / allowed, 100 * int(stats["throttled"]) / int(stats["calls"])
    return [
        Outcome("limit", f"{what}: use of the limit", Unit.PERCENT, used, at_least(97), product, note=BY_SERVER),
        Outcome("limit", f"{what}: calls answered 429", Unit.PERCENT, refused, at_most(0.5), product),
        Outcome("limit", f"{what}: rows failed", Unit.ROWS, failed, at_most(0), product),
    ]


LINES = (
    Line("calls", "concurrent, 20 workers, server at 0 ms: >= 0.9 x a bare thread pool", quick_line),
    Line("limit", "concurrent at 3,000 requests/min: >= 97 % used, <= 0.5 % 429, 0 rows failed", limit_line),
)
