"""A local server that speaks the providers' real wire protocols, for rehearsals and tests.

Answers are simulated and nothing is billed, but every call that a provider would bill is written down. The
product reaches it through the real SDKs: only the base URL differs.
"""

from __future__ import annotations

from batch_jobs.models import Dialect


def base_url(dialect: Dialect | str, server_url: str) -> str:
    """Give the base URL that a dialect's SDK is to be pointed at.

    Args:
        dialect: whose protocol.
        server_url: where the sandbox listens, as `server.json` has it under `url`.
    """
    prefix = {Dialect.OPENAI: "/openai/v1", Dialect.ANTHROPIC: "/anthropic", Dialect.GEMINI: "/gemini"}
    return server_url.rstrip("/") + prefix[Dialect(dialect)]
