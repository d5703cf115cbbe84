"""The sandbox as an ASGI app: three dialects and its own routes behind one gate.

Everything it needs is made here and hung on the app; nothing is global.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI
from starlette.types import ASGIApp

from . import admin, anthropic_routes, gemini_routes, openai_routes
from .behaviour import Behaviour
from .gate import Activity, Gate
from .sandbox import Sandbox

THREADS = 32


def create_app(state: Path, behaviour: Behaviour, *, activity: Activity | None = None) -> FastAPI:
    """Build the app.

    Args:
        state: folder that outlives the process; made when it is not there.
        behaviour: in force until `PUT /sandbox/behaviour`.
        activity: where the requests are noted, for a server that stops when idle.
    """
    box = Sandbox(state, behaviour)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        box.state.database.close()

    app = _GatedApp(
        title="Provider sandbox (simulated)",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.sandbox = box
    app.state.activity = activity or Activity(time.monotonic())
    for module in (openai_routes, anthropic_routes, gemini_routes, admin):
        app.include_router(module.router())
    return app


class _GatedApp(FastAPI):
    """The app with the gate around even its error handling: only there uvicorn's own `send` is at hand."""

    def build_middleware_stack(self) -> ASGIApp:
        return Gate(super().build_middleware_stack(), self.state.activity)
