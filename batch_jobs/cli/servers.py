"""`batch-jobs serve` (the HTTP API) and `batch-jobs sandbox` (the rehearsal server)."""

from __future__ import annotations

import os
from pathlib import Path

import click

from batch_jobs.cli import show
from batch_jobs.cli.options import Place, opened, project_options, say
from batch_jobs.errors import EXIT_OK, ConfigError, UserError


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Needs keys in BATCH_JOBS_API_KEYS if not loopback."
)
@click.option("--port", default=8000, show_default=True, help="0 for any free port.")
@project_options
def serve(place: Place, host: str, port: int) -> int:
    """Start the HTTP API; it goes on with every open job of the store.

    Keys: BATCH_JOBS_API_KEYS, separated by commas, sent by clients as `Authorization: Bearer KEY`. Without keys it
    serves this machine only.
    """
    from batch_jobs.api.server import api_keys, check_address, run_server
    from batch_jobs.lifecycle.rehearsal import ensure_sandbox

    keys = api_keys(os.environ)
    check_address(host, keys)
    with opened(place) as project:
        if place.sandbox:
            ensure_sandbox(project.workspace)
        say(place, show.line("serving", f"http://{host}:{port}   docs at /docs, {len(keys) or 'no'} keys"))
        run_server(project, host, port, keys)
    return EXIT_OK


@click.command()
@click.option("--port", default=8900, show_default=True, help="0 for any free port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback only.")
@click.option(
    "--state", default="store/sandbox", show_default=True, metavar="DIR", help="Where it keeps what it knows."
)
@click.option(
    "--behaviour", metavar="FILE", help="JSON with delays, limits and faults; see providers/sandbox/README.md."
)
@click.option("--idle-exit", type=float, metavar="SECONDS", help="End after so long without a request.")
def sandbox(port: int, host: str, state: str, behaviour: str | None, idle_exit: float | None) -> int:
    """Start the rehearsal server: the three providers' wire protocols, simulated answers, nothing billed."""
    from providers.sandbox.behaviour import Behaviour
    from providers.sandbox.server import CannotServe
    from providers.sandbox.server import serve as serve_sandbox

    try:
        chosen = Behaviour.from_json(Path(behaviour).read_bytes()) if behaviour else Behaviour()
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{behaviour}: {error}") from error
    try:
        serve_sandbox(host=host, port=port, state=Path(state), behaviour=chosen, idle_exit_seconds=idle_exit)
    except CannotServe as error:
        raise UserError(str(error)) from error
    return EXIT_OK
