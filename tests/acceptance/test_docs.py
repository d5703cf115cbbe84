"""Documentation can't rot: every command, option, route, key and exit code that it names exists, and the reverse."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterator

import click
import pytest
from pydantic import BaseModel

from batch_jobs import errors
from batch_jobs.cli import COMMANDS, cli
from batch_jobs.config import Settings
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CONFIGURATION = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")


def commands_of_readme() -> list[str]:
    """Every `batch-jobs ...` and `run ...`-style command that the README shows."""
    shown = re.findall(r"^(?:\$ |\.venv/bin/)?(batch-jobs [^\n#]*)", README, re.MULTILINE)
    in_tables = re.findall(r"\| `((?:run|jobs|report|cancel|resume|status|export|unpack|rebuild-store)[^`|]*)`", README)
    return [*shown, *(f"batch-jobs {text}" for text in in_tables)]


@pytest.mark.parametrize("command", commands_of_readme())
def test_a_command_of_the_readme_parses(command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if word != "..."]
    root = click.Context(cli, info_name="batch-jobs")
    found = cli.get_command(root, words[0])
    assert found is not None, command
    context = click.Context(found, info_name=words[0], resilient_parsing=True)
    found.parse_args(context, words[1:])  # an option that does not exist raises


def test_the_readme_shows_commands_and_make_targets_that_exist() -> None:
    assert len(commands_of_readme()) > 8
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"(?:`|^|\$ )make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_stands_in_docs_as_its_help_says() -> None:
    script = REPOSITORY / "scripts" / "make_docs.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "docs/cli.md is out of date: python scripts/make_docs.py"
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"## batch-jobs {name}" in page for name in COMMANDS)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the configuration, with <name> for free names."""
    for name, field in model.model_fields.items():
        arguments = typing.get_args(field.annotation)
        below = [x for x in (field.annotation, *arguments) if isinstance(x, type) and issubclass(x, BaseModel)]
        if not below:
            yield f"{prefix}{name}"
            continue
        free = "<name>." if typing.get_origin(field.annotation) is dict else ""
        yield from keys_of(below[0], f"{prefix}{name}.{free}")


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    documented = set(re.findall(r"^\| `([a-z_.<>]+)` \|", CONFIGURATION, re.MULTILINE))
    assert documented == set(keys_of(Settings))


def test_every_route_is_in_the_readme() -> None:
    for path in (
        "/jobs",
        "/jobs/{task_id}/events",
        "/jobs/{task_id}/report",
        "/jobs/{task_id}/export",
        "/jobs/{task_id}/cancel",
        "/jobs/{task_id}/resume",
        "/tasks",
        "/healthz",
    ):
        assert path in README
    assert "/download" in README


def test_the_exit_codes_of_the_readme_are_those_of_the_code() -> None:
    line = next(text for text in README.split("\n\n") if text.startswith("**Exit codes**"))
    said = {int(code) for code in re.findall(r"(?:: |· )(\d+) ", line.replace("\n", " "))}
    assert said == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def test_the_task_of_the_readme_is_the_shipped_one() -> None:
    config = (REPOSITORY / "config.json").read_text(encoding="utf-8")
    for text in re.findall(r'"description": "([^"]+)"', README):
        assert text in config
