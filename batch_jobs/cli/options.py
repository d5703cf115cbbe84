"""Options that several commands share, and the project they open."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batch_jobs.errors import JobNotFound, UserError
from batch_jobs.models import OutputShape

if TYPE_CHECKING:
    from batch_jobs.lifecycle.project import Project

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Place:
    """Which project a command works on, and how it talks."""

    config: Path
    root: Path | None
    sandbox: bool
    as_json: bool


def path_of(option: str, given: str) -> Path:
    """A path that a user gave, which can be one.

    Raises:
        UserError: no file can have this name, or it is a link that leads to itself.
    """
    path = Path(given)
    try:
        path.resolve()
        path.exists()
        given.encode()
    except UnicodeEncodeError:
        shown = given.encode("utf-8", "replace").decode()
        raise UserError(f"{option} {shown}: the name is not UTF-8; rename the file, and try again") from None
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).split(":")[0]
        raise UserError(f"{option} {given[:80]}: this can't be a file's name: {why}") from None
    return path


def project_options(function: F) -> F:
    """--config, --root, --sandbox, --json; hands them over as `place`."""

    def together(config: str, root: str | None, sandbox: bool, as_json: bool, **rest: Any) -> Any:
        place = Place(Path(config), Path(root) if root else None, sandbox, as_json)
        return function(place=place, **rest)

    together.__name__, together.__doc__ = function.__name__, function.__doc__
    together.__dict__.update(function.__dict__)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
        click.option("--sandbox", is_flag=True, help="Rehearse on a local server: simulated answers, no key, no cost."),
        click.option(
            "--root",
            metavar="DIR",
            envvar="BATCH_JOBS_ROOT",
            help="Holds batch_input/, batch_output/ and store/.  [default: the folder of config.json]",
        ),
        click.option(
            "--config",
            metavar="PATH",
            default="config.json",
            envvar="BATCH_JOBS_CONFIG",
            show_default=True,
            help="The project's config.json.",
        ),
    ):
        together = option(together)
    return together  # type: ignore[return-value]


output_shape = click.option(
    "--output-shape",
    "shape",
    type=click.Choice([shape.value for shape in OutputShape]),
    default=OutputShape.ROWS.value,
    show_default=True,
    help="What a line of the file stands for; groups: of a data case with group_output, a group.",
)


@contextlib.contextmanager
def opened(place: Place) -> Iterator[Project]:
    """The project of this place; left open after a failed sync, as closing a database writes and syncs again."""
    from batch_jobs import system
    from batch_jobs.lifecycle.project import open_project

    project = open_project(place.config, place.root, simulated=place.sandbox)
    try:
        yield project
    finally:
        if not system.sync_has_failed():
            project.close()


def full_id(project: Project, given: str) -> str:
    """A task_id from itself or from its first six characters or more.

    Raises:
        JobNotFound: none, or more than one, begins so.
    """
    from batch_jobs.storage import jobs

    with project.ledger.read() as connection:
        found = jobs.with_prefix(connection, given.strip().lower())
    if len(found) == 1:
        return found[0]
    if found:
        raise JobNotFound(f"more than one job begins with {given}: give more of the task_id")
    raise JobNotFound(
        f"there is no job {given[:64]} in {project.workspace.store}. See what there is with: batch-jobs jobs"
    )


def say(place: Place, text: str = "") -> None:
    """A line for people: on stdout, or on stderr when stdout belongs to JSON."""
    click.echo(text, err=place.as_json, color=None if "NO_COLOR" not in os.environ else False)


def answer_json(place: Place, document: Any) -> None:
    """The one JSON object, if it was asked for."""
    if place.as_json:
        click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))
