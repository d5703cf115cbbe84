"""How soon the command line answers: `--help`, and `status` of a finished job."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from benchmarks.lines import Line, Outcome, Unit, at_most
from benchmarks.measure import Sample
from benchmarks.stage import PRODUCT, Stage, run_arguments, side

TIMES = 9
JOB_ROWS = 200


def startup_line(stage: Stage) -> list[Outcome]:
    """Whole processes with a warm cache: the median of nine, after one that does not count."""
    project, server = stage.project("startup"), stage.server
    arguments = run_arguments(stage.table(JOB_ROWS), "--mode", "batch", "--json", "--output", str(project / "o.csv"))
    task_id = str(stage.command_line(*arguments, project=project, environ=server.environ).report["task_id"])
    stage.say("start-up")
    quiet = replace(stage, say=lambda _: None)

    def typical(*command: str) -> Sample:
        runs = [quiet.command_line(*command, project=project, environ=server.environ) for _ in range(TIMES + 1)][1:]
        return replace(runs[0], seconds=median(run.seconds for run in runs))

    told, status = typical("--help"), typical("status", task_id)
    stage.drop(project)
    return [
        Outcome("startup", "--help", Unit.SECONDS, told.seconds, at_most(0.25), side(PRODUCT, told, 0)),
        Outcome(
            "startup", "status of a finished job", Unit.SECONDS, status.seconds, at_most(0.4), side(PRODUCT, status, 0)
        ),
    ]


LINES = (Line("startup", "--help <= 0.25 s; status of a finished job <= 0.4 s", startup_line),)
