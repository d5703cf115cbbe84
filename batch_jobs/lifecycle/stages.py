"""Stages that one can run and look at: what each leaves as an artefact, when it is made anew, where the old one goes.

An artefact is the same bytes for the same input. It is made anew where it is missing, where the sha256 of its inputs is
another one, or on demand; what it replaces is kept in `archived/` beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.config import pick
from batch_jobs.errors import UserError
from batch_jobs.lifecycle.plan import render_spec
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.rules import rules_of
from batch_jobs.lifecycle.schema_fit import task_prompt
from batch_jobs.models import Parameters
from batch_jobs.render.judge_prompt import load_judge
from batch_jobs.render.prompts import load_prompt
from batch_jobs.render.spec import RenderSpec
from batch_jobs.storage.files import atomic_write, publish_new
from batch_jobs.storage.jobs import Job

ARCHIVED = "archived"
INPUTS = "inputs_sha256"
_PLACES = ("snapshot", "plan", "prompt_folder")
"""What of a render spec says where things lie, and not what is rendered."""


class State(StrEnum):
    """What a stage did."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"  # its artefact was there, and its inputs are what they were


@dataclass(frozen=True, slots=True)
class Made:
    """A stage's artefact.

    Attributes:
        archived: where the one is that it replaced.
    """

    state: State
    path: Path
    archived: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "state": self.state,
            "artefact": str(self.path),
            "archived": str(self.archived) if self.archived else None,
        }


def document(values: dict[str, Any]) -> bytes:
    """A JSON artefact: UTF-8, sorted keys, two spaces, a line end."""
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def json_line(values: dict[str, Any]) -> bytes:
    """A line of a JSON-lines artefact."""
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def sha256_of_values(*values: object) -> str:
    """Hex sha256 over plain values: the inputs of a stage."""
    return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.inputs")


def kept_notes(path: Path) -> dict[str, Any]:
    """What `keep_inputs` noted beside an artefact; nothing where one of the two is not there, or can't be read."""
    try:
        found = orjson.loads(_beside(path).read_bytes()) if path.is_file() else None
    except (OSError, ValueError):
        return {}  # the artefact is made anew, and the old one archived
    return found if isinstance(found, dict) else {}


def kept_inputs(path: Path) -> str | None:
    """The sha256 of what an artefact was made from; None where it is not there, or that is not known."""
    found = kept_notes(path).get(INPUTS)
    return found if isinstance(found, str) else None


def keep_inputs(path: Path, inputs: str, **also: int) -> None:
    """Say beside an artefact what it was made from; last, so that a crash before it has it made anew."""
    atomic_write(_beside(path), document({**also, INPUTS: inputs}))


def is_current(path: Path, inputs: str) -> bool:
    """Whether an artefact is there, and was made from these inputs."""
    return kept_inputs(path) == inputs


def archive(path: Path, at: float) -> Path | None:
    """Keep an artefact that is about to be replaced, under `archived/` beside it; it stays in its place, too.

    Args:
        path: the artefact; where it is not there, nothing is done.
        at: unix seconds.

    Returns:
        Where it is kept.
    """
    if not path.is_file():
        return None
    for number in count():
        stamp = datetime.fromtimestamp(at + number / 1e6, UTC).strftime("%Y%m%dT%H%M%S%fZ")
        target = path.parent / ARCHIVED / f"{path.stem}.{stamp}{path.suffix}"
        if publish_new(path, target):
            return target
    raise AssertionError("count() does not end")


def plan_inputs(project: Project, job: Job, prompt_sha256: str, judge_sha256: str) -> str:
    """The sha256 of all that a job's items are made from: upload, prompts, schema, config, model and parameters."""
    unjudged = replace(job, rules=replace(job.rules, judge=None))  # the judge's own prompt is kept only with the plan
    spec = render_spec(project, unjudged)
    values = {field.name: getattr(spec, field.name) for field in fields(RenderSpec) if field.name not in _PLACES}
    judge = replace(job.rules.judge, account="") if job.rules.judge else None  # another key is no other question
    rules = replace(job.rules, judge=judge)
    return sha256_of_values(job.file_sha256, job.format.sheet, prompt_sha256, judge_sha256, rules, values)


def current_inputs(project: Project, job: Job) -> str:
    """The same, of a job that would be planned now."""
    prompt = task_prompt(project, job.task, job.data_case)
    kind = replace(project, simulated=job.simulated)  # a rehearsal needs no key for its judge
    rules, judge = rules_of(kind, job.task, prompt, job.provider, job.model)
    parameters = Parameters(**project.entry(job.provider).parameters.model_dump())
    now = replace(job, parameters=parameters, endpoint=project.endpoint(job.provider), rules=rules)
    return plan_inputs(project, now, prompt.sha256, judge.sha256 if judge else "")


def own_inputs(project: Project, job: Job) -> str:
    """The same, of the job as it is: as `stage items` noted them, else by its kept prompts."""
    noted = kept_inputs(project.workspace.items(job.task_id))
    if noted is not None:
        return noted
    name = pick("task", job.task, project.settings.tasks).prompt
    kept = project.workspace.prompt(job.task_id, name)
    folder = kept.parent if kept.exists() else project.prompt_lib
    prompt, judge = load_prompt(folder, name), job.rules.judge
    judge_sha256 = load_judge(folder / judge.prompt, prompt.output).sha256 if judge else ""
    return plan_inputs(project, job, prompt.sha256, judge_sha256)


def is_outdated(project: Project, job: Job) -> bool:
    """Whether prompt, schema or config have changed since a job was planned: it keeps what it was planned with."""
    return own_inputs(project, job) != current_inputs(project, job)


def require_current(project: Project, job: Job) -> None:
    """Refuse a stage of a job that was planned with another prompt or config.

    Raises:
        UserError: it was; says how to get a job with the present ones.
    """
    if is_outdated(project, job):
        file = job.source_path or job.file_name
        raise UserError(
            f"job {job.task_id[:12]} keeps the prompt and config that it was planned with, and these have changed. "
            f"For a job with the new ones: batch-jobs stage ingest --file {file} --task {job.task} "
            f"--data-case {job.data_case}{' --sandbox' if job.simulated else ''}   "
            "(what is still asked alike is not paid again)"
        )
