"""Where the Python API keeps what must not be lost: a project folder like any other, made when it is first used.

Its config.json has the shipped providers, to be edited like any other's, and gets an entry for each question that is
asked. `batch-jobs --config <folder>/config.json` shows its jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from batch_jobs import system
from batch_jobs.config import ProviderEntry, Settings, load_settings, pick
from batch_jobs.errors import ConfigError, JobNotFound, UserError
from batch_jobs.frames.asked import Asked
from batch_jobs.shipped import shipped_folder
from batch_jobs.storage.files import atomic_write, store_errors
from batch_jobs.workers import Workers

if TYPE_CHECKING:
    from batch_jobs.lifecycle.project import Project

M = TypeVar("M", bound=BaseModel)
FOLDER = "batch-jobs"
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class How:
    """How a call wants its requests made; what is None stays as config.json and the environment have it.

    Attributes:
        backend: a provider of config.json.
        concurrent: keys of the section `concurrent`.
        parameters: keys of the provider's `parameters`.
    """

    backend: str | None = None
    model: str | None = None
    timeout_seconds: float | None = None
    concurrent: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    simulated: bool = False


def folder_of(cache_path: str | os.PathLike[str] | None) -> Path:
    """The folder that a call keeps its store in; by default one a user, where the platform has such."""
    path = Path(cache_path) if cache_path is not None else system.user_cache_folder() / FOLDER
    if path.is_file():
        raise UserError(f"cache_path: {path} is a file; give a folder")
    return path.absolute()


def keep_task(folder: Path, asked: Asked) -> None:
    """Put a question into the folder's project, which is made when it is not there; there already, nothing changes.

    Raises:
        ConfigError: config.json can't be read.
        StoreError: the folder can't be written.
    """
    with store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with system.exclusive_lock(folder / "config.lock"):
            config = _config_in(folder)
            prompt = folder / "prompt_lib" / asked.prompt.file_name
            if not prompt.is_file():
                atomic_write(prompt, asked.prompt.source)
            if config["tasks"].get(asked.name) != asked.entry:
                config["tasks"][asked.name] = asked.entry
                atomic_write(folder / CONFIG, json.dumps(config, ensure_ascii=False, indent=2).encode())


def _config_in(folder: Path) -> dict[str, Any]:
    """config.json as it is, or the shipped one without its tasks."""
    path = folder / CONFIG
    made = path.exists()
    try:
        found = json.loads((path if made else shipped_folder() / CONFIG).read_text("utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON: {error}. Mend it, or move it away") from error
    if not isinstance(found, dict) or not isinstance(found.get("tasks"), dict):
        raise ConfigError(f'{path}: has no "tasks". Mend it, or move it away')
    # nobody browses these rows, they are in a frame: a file a job, not a folder a row
    return found if made else {**found, "tasks": {}, "store": {"layout": "packed"}}


@contextlib.contextmanager
def opened(folder: Path, how: How | None = None) -> Iterator[Project]:
    """Open the folder's project; left open after a failed sync, as closing a database writes and syncs again.

    Args:
        folder: of `folder_of`.
        how: what a call wants otherwise than config.json.

    Raises:
        JobNotFound: there is none.
        UserError: what the call wants can't be.
    """
    from batch_jobs.lifecycle.cells import forget_files
    from batch_jobs.lifecycle.project import project_with

    config = folder / CONFIG
    if not config.exists():
        raise JobNotFound(f"{folder}: nothing was kept there yet. Give the cache_path that the job was made with")
    settings = settings_with(load_settings(config), how) if how is not None else load_settings(config)
    simulated = how.simulated if how is not None else False
    # no processes: one would run the caller's script again, unless it has a guard that notebooks can't have
    project = project_with(settings, config, None, simulated=simulated, workers=Workers(none=True))
    try:
        yield project
    finally:
        forget_files()
        if not system.sync_has_failed():
            project.close()


def with_tasks_of(project: Project, folder: Path) -> Project:
    """The same open project, with the tasks that its config.json has now."""
    tasks = load_settings(folder / CONFIG).tasks
    return replace(project, settings=project.settings.model_copy(update={"tasks": tasks}))


def settings_with(settings: Settings, how: How) -> Settings:
    """The settings as a call wants them: what it says goes before the environment and config.json.

    Raises:
        UnknownName: there is no such provider.
        UserError: a value is out of its bounds.
    """
    name = how.backend or settings.defaults.provider
    entry = pick("backend", name, settings.providers)
    changed = _changed(
        entry,
        model=how.model,
        timeout_seconds=how.timeout_seconds,
        parameters=_changed(entry.parameters, **how.parameters),
    )
    return settings.model_copy(
        update={
            "providers": {**settings.providers, name: changed},
            "concurrent": _changed(settings.concurrent, **how.concurrent),
        }
    )


def backend_of(settings: Mapping[str, ProviderEntry], model: str) -> str | None:
    """The provider that has a model of this name; None where none or several have it."""
    having = [name for name, entry in settings.items() if model in (entry.model, *entry.models)]
    return having[0] if len(having) == 1 else None


def _changed(section: M, **values: Any) -> M:
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        return section
    try:
        return type(section).model_validate({**dict(section), **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']} (it is {first['input']!r})") from error
