"""The command line: parse, call one function, show. Commands are loaded when they are used, so --help is quick."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import traceback
from typing import NoReturn

import click

from batch_jobs.errors import EXIT_BUG, EXIT_INTERRUPTED, BatchJobsError, StoreError, SyncFailed

COMMANDS = {
    "run": "batch_jobs.cli.run:run",
    "status": "batch_jobs.cli.status:status",
    "jobs": "batch_jobs.cli.status:jobs_command",
    "report": "batch_jobs.cli.report:report_command",
    "cancel": "batch_jobs.cli.control:cancel_command",
    "resume": "batch_jobs.cli.control:resume_command",
    "init": "batch_jobs.cli.starter:init",
    "serve": "batch_jobs.cli.servers:serve",
    "sandbox": "batch_jobs.cli.servers:sandbox",
    "export": "batch_jobs.cli.export:export_command",
    "unpack": "batch_jobs.cli.unpack:unpack_command",
    "rebuild-store": "batch_jobs.cli.control:rebuild_store",
    "check-store": "batch_jobs.cli.check:check_store",
    "stage": "batch_jobs.cli.stage:stage",
}
HELP = {
    "run": "Answer every row of a spreadsheet and get it back with new columns.",
    "status": "Show how a job stands; fetch its file with --download.",
    "jobs": "List the jobs of this store.",
    "report": "Write how a job went: a page to show, a text to send.",
    "cancel": "Stop a job; what was finished is fetched and priced.",
    "resume": "Go on with a job that was paused or interrupted.",
    "init": "Make a new project folder: config, prompts, an example.",
    "serve": "Start the HTTP API.",
    "sandbox": "Start the local rehearsal server.",
    "export": "Write a done job's rows as csv, tsv, psv, jsonl, xlsx or parquet.",
    "unpack": "Write folders for packed results of a large job.",
    "rebuild-store": "Make the folders and manifests anew from the ledger.",
    "check-store": "Say whether all that the store holds agrees.",
    "stage": "Run one stage of a job, and look at what it leaves.",
}
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE})
"""What a machine does to a program; any other OSError that comes this far is a bug."""
EPILOG = """\b
A first try, without a key and without cost:
  batch-jobs init my-project && cd my-project
  batch-jobs run --file examples/external_loss.csv --task summarize --data-case external_loss --sandbox

\b
Exit codes: 0 every row answered; 2 bad input or config, nothing sent; 3 done, some rows failed;
4 needs the operator (quota, key, disk), resumable; 5 not done yet; 130 interrupted, resumable; 1 a bug."""


class _Lazy(click.Group):
    """Lists the commands without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order that a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command's module."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands with a line each, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A wrong command is answered with the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from batch_jobs.config import nearest

            ctx.fail(f'there is no command "{args[0]}"{nearest(args[0], COMMANDS)}')
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Lazy, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="batch-jobs")
def cli() -> None:
    """A spreadsheet in, the same spreadsheet back with columns written by an LLM.

    Overnight through the providers' own batch APIs at half the price, or at once through a pool of threads.
    """


def main(args: list[str] | None = None) -> None:
    """Run one command and exit with its code; an error is one message on stderr, a bug a traceback."""
    try:
        code = cli.main(args=args, standalone_mode=False, prog_name="batch-jobs")
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted", err=True)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = EXIT_BUG
    except Exception as error:
        code = _told(error)
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: Exception) -> int:
    """Say what went wrong; returns the exit code. After a failed sync the process ends here."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        error = StoreError(f"{error.filename or 'the store'}: {error.strerror}: see to it, then run it again")
    if not isinstance(error, BatchJobsError):
        click.echo("".join(traceback.format_exception(error)), err=True)
        click.echo(
            "error  this is a bug of batch-jobs, not yours; what was answered is kept. Report the lines above", err=True
        )
        return EXIT_BUG
    click.echo(f"{click.style('error', fg='red')}  {error.message}", err=True)
    if isinstance(error, SyncFailed):
        _leave_at_once(error.exit_code)
    return error.exit_code


def _leave_at_once(code: int) -> NoReturn:
    """End without closing anything: a database that is closed writes and syncs once more, and would be believed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
