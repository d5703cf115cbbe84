"""Write docs/cli.md from the commands' own --help, so that the two can't differ; --check tells whether they do."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from batch_jobs.cli import COMMANDS, cli

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 100
HEAD = """# The command line

Made from the commands' own `--help` by `python scripts/make_docs.py`.
"""


def help_of(command: click.Command, name: str) -> str:
    """A command's help as a terminal of fixed width shows it."""
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    return f"```\n{command.get_help(context)}\n```\n"


def document() -> str:
    """The whole page."""
    parts = [HEAD, help_of(cli, "batch-jobs")]
    root = click.Context(cli, info_name="batch-jobs")
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        parts.append(f"## batch-jobs {name}\n\n{help_of(command, f'batch-jobs {name}')}")
        below = command.commands if isinstance(command, click.Group) else {}
        parts += [
            f"### batch-jobs {name} {sub}\n\n{help_of(each, f'batch-jobs {name} {sub}')}" for sub, each in below.items()
        ]
    return "\n".join(parts)


def main() -> int:
    """Return 1 when `--check` finds the page out of date."""
    text = document()
    if "--check" in sys.argv[1:]:
        return int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
