"""Pages of docs/, and the files that they show."""

from __future__ import annotations

import json
import re

from tests.acceptance.kit import Cli
from tests.conftest import REPOSITORY


def page(name: str) -> str:
    """A page's text."""
    return (REPOSITORY / "docs" / name).read_text("utf-8")


def blocks(name_of_page: str, name: str) -> list[str]:
    """The files that a page shows under a name."""
    shown = rf"^`{re.escape(name)}`,[^\n]*:\n\n```\w+\n(.*?)^```$"
    return re.findall(shown, page(name_of_page), re.DOTALL | re.MULTILINE)


def block(name_of_page: str, name: str) -> str:
    """The one file that a page shows under its name."""
    (found,) = blocks(name_of_page, name)
    return found


def follow(cli: Cli, name_of_page: str, *files: str) -> None:
    """Put the files of a page into a project, and its tasks into the config."""
    for name in files:
        (cli.folder / name).write_text(block(name_of_page, name), "utf-8")
    for tasks in blocks(name_of_page, "config.json"):
        add_tasks(cli, json.loads(tasks))


def add_tasks(cli: Cli, tasks: dict[str, object]) -> None:
    """Add entries under `tasks`."""
    path = cli.folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["tasks"].update(tasks)
    path.write_text(json.dumps(config), "utf-8")
