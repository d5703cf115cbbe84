"""The three dialects by name, for code that meets batches of all of them.

Routes use their own dialect directly.
"""

from __future__ import annotations

from batch_jobs.models import Dialect

from . import anthropic_routes, gemini_routes, openai_routes
from .execute import settle
from .sandbox import Sandbox
from .wire import Wire

WIRES: dict[Dialect, Wire] = {
    Dialect.OPENAI: openai_routes.WIRE,
    Dialect.ANTHROPIC: anthropic_routes.WIRE,
    Dialect.GEMINI: gemini_routes.WIRE,
}


def settle_all(box: Sandbox) -> None:
    """Execute every batch that is due, also those that nobody ever asks about."""
    for batch in box.state.unsettled():
        settle(box, WIRES[batch.dialect], batch)
