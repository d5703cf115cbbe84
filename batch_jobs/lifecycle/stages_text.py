"""The schema of a task as JSON text beside it: `<stem>.schema.json`, for prompts, people and other programs."""

from __future__ import annotations

from pathlib import Path

from batch_jobs.config import pick
from batch_jobs.errors import ConfigError
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.schema_fit import task_prompt
from batch_jobs.lifecycle.stages import Made, State, archive, is_current, keep_inputs, sha256_of_values
from batch_jobs.render.prompt import Prompt
from batch_jobs.render.prompt_module import load_models
from batch_jobs.render.schema_files import schema_text
from batch_jobs.storage.files import atomic_write

VERSION = 1
"""Of the text; one of another version is made anew."""


def write_schema_text(project: Project, task_name: str, *, force: bool = False) -> Made:
    """Write the JSON Schema text of all models of a task's schema.

    Args:
        project: opened.
        task_name: the task.
        force: write it anew.

    Raises:
        ConfigError: there is no such schema, or something is wrong with it.
    """
    task = pick("task", task_name, project.settings.tasks)
    prompt = task_prompt(project, task_name, next(iter(task.data_cases)))
    file = prompt.files[-1]
    path = file.with_name(f"{file.stem.removesuffix('.schema')}.schema.json")
    if path == file:
        raise ConfigError(f"{file}: is itself named as the text would be; rename it (and in {prompt.path.name})")
    inputs = sha256_of_values(VERSION, prompt.output.schema, file.suffix == ".py" and prompt.sha256)
    if not force and is_current(path, inputs):
        return Made(State.UNCHANGED, path)
    archived = archive(path, project.clock())
    atomic_write(path, f"{_text(prompt, file)}\n".encode())
    keep_inputs(path, inputs)
    return Made(State.WRITTEN, path, archived)


def _text(prompt: Prompt, file: Path) -> str:
    models = load_models(file, file.read_bytes())[1] if file.suffix == ".py" else ()
    return schema_text(prompt.output.schema, models)
