"""`batch-jobs init DIR`: a fresh project folder for users who installed the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from batch_jobs.errors import UserError
from batch_jobs.shipped import PARTS, shipped_folder


@click.command()
@click.argument("folder", metavar="DIR")
def init(folder: str) -> int:
    """Make a new project folder: config.json, prompt_lib/ and an example to try."""
    target, source = Path(folder), shipped_folder()
    there = [name for name in PARTS if (target / name).exists()]
    if there:
        raise UserError(f"{target}: holds {', '.join(there)} already; nothing was changed. Choose another folder")
    target.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source / name, target / name)
    click.echo(f"made {target}: config.json, prompt_lib/, examples/")
    click.echo(f"try it, without a key and without cost:\n  cd {target}")
    click.echo(
        "  batch-jobs run --file examples/external_loss.csv --task summarize --data-case external_loss --sandbox"
    )
    return 0
