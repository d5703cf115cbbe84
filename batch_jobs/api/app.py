"""The API as an ASGI app: one project, one poller that advances every open job of its store for as long as it runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection
from importlib.metadata import version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from batch_jobs.api import failures, routes
from batch_jobs.api.guard import Guard
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.schedule import Poller

WORKERS = 4
DESCRIPTION = """Upload a table and get it back with new columns written by an LLM.

`POST /jobs` answers with a `task_id`; ask `GET /jobs/{task_id}` until its `status` is `done`, then
`GET /jobs/{task_id}/download`, `GET /jobs/{task_id}/export` for the rows with their ids in another format, and
`GET /jobs/{task_id}/report` for a page that says how it went. Every error has one shape:
`{"error": {"type", "message", "exit_code"}}`."""


def create_app(project: Project, keys: Collection[bytes]) -> FastAPI:
    """Build the app.

    Args:
        project: opened; stays the caller's to close.
        keys: sha256 digests of the API keys (`server.api_keys`); without any, only this machine is served.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        poller = Poller(project, workers=WORKERS)
        app.state.poller = poller
        poller.watch_all()
        try:
            yield
        finally:
            await run_in_threadpool(poller.close)

    app = FastAPI(
        title="Batch jobs",
        version=version("batch-jobs"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.project = project
    app.add_middleware(Guard, keys=keys, max_bytes=project.settings.intake.max_bytes)
    failures.install(app)
    app.include_router(routes.guarded)
    app.include_router(routes.open_to_all)
    return app
