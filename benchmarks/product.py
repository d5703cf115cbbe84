"""The product's side of the lines that its command line does not show by themselves, each in a process of its own.

`python -m benchmarks.product STEP JSON`: does one step by the product's public names, prints one JSON object.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from benchmarks.samples import RESULT, identity_of, row_details
from benchmarks.stage import DATA_CASE, TASK

Given = dict[str, Any]


def _open(given: Given) -> Any:
    from batch_jobs.lifecycle.project import open_project

    return open_project(Path(given["project"]) / "config.json", None)


def plan(given: Given) -> Given:
    """Take a file in and plan it, until the product asks for the word to send."""
    from batch_jobs.lifecycle.advance import Came, advance
    from batch_jobs.lifecycle.receive import Order, receive
    from batch_jobs.models import Mode

    with closing(_open(given)) as project:
        file = Path(given["file"])
        job = receive(project, Order(file, file.name, TASK, DATA_CASE, Mode(given.get("mode", "batch"))))
        came = advance(project, job.task_id).came
        assert came is Came.CONFIRM, came
    return {"task_id": job.task_id}


def render(given: Given) -> Given:
    """Render a planned job's rows once more, into a folder of their own, with a number of workers."""
    from batch_jobs.lifecycle.plan import render_spec
    from batch_jobs.storage import jobs

    with closing(_open(given)) as project:
        with project.ledger.read() as connection:
            job = jobs.get(connection, given["task_id"])
        spec = replace(render_spec(project, job), plan=Path(given["into"]))
        began = time.perf_counter()
        segments = _render_all(spec, int(given["workers"]))
        return {"seconds": time.perf_counter() - began, "segments": segments}


def _render_all(spec: Any, workers: int) -> int:
    """Call `render_all` with a number of workers, in the form that the product at hand has."""
    render_all: Any = importlib.import_module("batch_jobs.render.pool").render_all
    if "workers" in inspect.signature(render_all).parameters:
        pool = importlib.import_module("batch_jobs.workers").Workers(workers)
        return int(render_all(spec, lambda _: None, pool))
    os.cpu_count = lambda: workers
    return int(render_all(spec, lambda _: None))


def fetch(given: Given) -> Given:
    """Take a planned job on until every result is on disk, and none is merged."""
    from batch_jobs.lifecycle.advance import advance
    from batch_jobs.lifecycle.control import approve
    from batch_jobs.models import ShardState
    from batch_jobs.storage import shards

    task_id, stop = given["task_id"], threading.Event()
    with closing(_open(given)) as project:

        def all_fetched() -> bool:
            with project.ledger.read() as connection:
                of_job = shards.of_job(connection, task_id)
            return bool(of_job) and all(shard.state is ShardState.FETCHED for shard in of_job)

        _instead_of_merging(lambda: stop.set() if all_fetched() else None)
        approve(project, task_id)
        while not stop.is_set():
            advanced = advance(project, task_id, stop=stop)
            assert advanced.seconds < 60, advanced
            stop.wait(advanced.seconds)
        assert all_fetched(), "a result was merged, or is not there"
    return {}


def _instead_of_merging(look: Callable[[], None]) -> None:
    """Put a look in the place of the merge step, wherever the product calls it from."""
    merge = importlib.import_module("batch_jobs.lifecycle.merge")
    importlib.import_module("batch_jobs.lifecycle.advance")
    step, nothing = merge.merge_shard, merge.Tally()

    def merge_nothing(*_: object) -> Any:
        look()
        return nothing

    for name, module in list(sys.modules.items()):
        if name.startswith("batch_jobs.lifecycle.") and getattr(module, "merge_shard", None) is step:
            module.merge_shard = merge_nothing  # type: ignore[attr-defined]


def finish(given: Given) -> Given:
    """Take a job to its end: merge, validate, cache, count, file, write the output."""
    from batch_jobs.lifecycle.advance import Came, advance
    from batch_jobs.lifecycle.view import view

    with closing(_open(given)) as project:
        began = time.perf_counter()
        while (advanced := advance(project, given["task_id"])).came is Came.WAIT:
            time.sleep(advanced.seconds)
        assert advanced.came is Came.DONE, advanced
        seconds, peak = time.perf_counter() - began, own_peak_bytes()
        seen = view(project, given["task_id"])
        assert seen.succeeded == seen.rows, f"{seen.succeeded} of {seen.rows} rows answered"
    return {"seconds": seconds, "peak_bytes": peak}


def own_peak_bytes() -> int:
    """VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def folders(given: Given) -> Given:
    """File rows into the folder store."""
    from batch_jobs.storage.folders import FolderStore
    from batch_jobs.storage.results import Filed

    rows = [
        Filed(identity=identity_of(number), name=TASK, result=RESULT, details=row_details(number))
        for number in range(int(given["rows"]))
    ]
    store = FolderStore(Path(given["into"]), DATA_CASE)
    began = time.perf_counter()
    filed = store.file(rows)
    return {"seconds": time.perf_counter() - began, "filed": filed}


def workbook(given: Given) -> Given:
    """Read a workbook into a snapshot, and write it again with our columns."""
    from batch_jobs.intake.recognise import open_table
    from batch_jobs.intake.snapshot import write_snapshot
    from batch_jobs.output.table import write_table
    from batch_jobs.table import Addition, IntakeLimits

    file, folder = Path(given["file"]), Path(given["into"])
    limits = IntakeLimits(max_bytes=2_000_000_000, max_rows=1_000_000, max_columns=1_000, max_cell_chars=200_000)
    table = open_table(file, filename=file.name, sheet=None, limits=limits)
    rows = write_snapshot(table, folder / "rows.parquet", file.name)
    additions = (Addition([RESULT["answer"]["summary"], "ok"]) for _ in range(rows))
    write_table(file, table.format, folder / "output.xlsx", ["summary", "summarize_status"], additions)
    return {"rows": rows}


STEPS: dict[str, Callable[[Given], Given]] = {
    step.__name__: step for step in (plan, render, fetch, finish, folders, workbook)
}


def main() -> None:
    """Do the step, print what it has to say."""
    step, given = sys.argv[1:]
    sys.stdout.write(orjson.dumps(STEPS[step](orjson.loads(given))).decode() + "\n")


if __name__ == "__main__":
    main()
