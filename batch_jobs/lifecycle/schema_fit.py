"""Whether a schema fits its provider's structured output: said before anything is sent, or in the plan's lines."""

from __future__ import annotations

from typing import Any

from batch_jobs.config import pick
from batch_jobs.errors import ConfigError, SchemaMissing
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Dialect
from batch_jobs.render.bundles import bundle_schema
from batch_jobs.render.prompt import Prompt
from batch_jobs.render.prompts import kept_prompt, load_prompt
from batch_jobs.storage.jobs import Job
from providers.schema_limits import Finding, findings

SHOWN = 3


def task_prompt(project: Project, task_name: str, data_case: str, file_name: str | None = None) -> Prompt:
    """Load a task's prompt from prompt_lib.

    Args:
        project: opened.
        task_name: the task.
        data_case: one of its data cases, for the message.
        file_name: of the upload, for the message.

    Raises:
        SchemaMissing: it names a schema module that is not there; says how to get it.
        ConfigError: something else is wrong with it.
    """
    task = pick("task", task_name, project.settings.tasks)
    try:
        return load_prompt(project.prompt_lib, task.prompt)
    except SchemaMissing as error:
        sample = f" --file {file_name}" if file_name else ""
        command = f"batch-jobs stage schema --task {task_name} --data-case {data_case}{sample}"
        raise SchemaMissing(f"{error.message}. Write it yourself, or have an LLM write it: {command}") from error


def asked_schema(schema: dict[str, Any], rows_per_request: int) -> dict[str, Any]:
    """The schema that is sent: the answer's, or where rows are asked for together, that of a list of them."""
    return bundle_schema(schema) if rows_per_request > 1 else schema


def check_schema(provider: str, dialect: Dialect, schema: dict[str, Any]) -> None:
    """Check that a provider takes a schema.

    Args:
        provider: its name in config.json, for the message.
        dialect: whose structured output.
        schema: of the answer.

    Raises:
        ConfigError: it does not; names the fields and the constructs.
    """
    refused = [finding for finding in findings(dialect, schema) if finding.refused]
    if refused:
        raise ConfigError(
            f"{provider} ({dialect}) does not take this schema: {_listed(refused)}. Nothing was sent. Change the "
            "schema, or use another provider: --provider"
        )


def schema_hints(project: Project, job: Job) -> str | None:
    """What of a planned job's schema its provider does not enforce, for the plan; None where it enforces all."""
    folder = project.workspace.prompt(job.task_id, "any").parent
    prompt = kept_prompt(folder, pick("task", job.task, project.settings.tasks).prompt)
    asked = asked_schema(prompt.output.schema, job.rules.rows_per_request)
    hints = [finding for finding in findings(Dialect(job.dialect), asked) if not finding.refused]
    if not hints:
        return None
    what = "the whole schema" if Dialect(job.dialect) is Dialect.OPENAI else "this"
    return f"{_listed(hints)}: {what} is only a hint to {job.provider}; each answer is checked all the same"


def _listed(found: list[Finding]) -> str:
    parts = [
        f'field "{finding.field}": {finding.construct}' if finding.field else finding.construct for finding in found
    ]
    return "; ".join(parts[:SHOWN]) + (f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else "")
