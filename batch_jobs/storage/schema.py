"""The ledger's and the call cache's tables. Times are unix seconds (UTC), money is USD.

The ledger's schema is made and changed by the Alembic migrations beside this file, and a test holds the two
against each other.
"""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text, text

ledger = MetaData()
cache = MetaData()

jobs = Table(
    "jobs",
    ledger,
    Column("task_id", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("data_case", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("dialect", Text, nullable=False),
    Column("endpoint", Text),
    Column("model", Text, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("mode", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("simulated", Integer, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("file_sha256", Text, nullable=False),
    Column("format", JSON, nullable=False),
    Column("columns", JSON, nullable=False),
    Column("output_columns", JSON, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("source_path", Text),
    Column("phase", Text, nullable=False),
    Column("outcome", Text),
    Column("message", Text),
    Column("round", Integer, nullable=False),
    Column("round_base", Integer, nullable=False),
    Column("plan", JSON),
    Column("autostart", Integer, nullable=False),
    Column("prompt_sha256", Text),
    Column("schema_sha256", Text),
    Column("delivered", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("updated_at", Float, nullable=False),
    Column("done_at", Float),
    Column("resumed_at", Float),
    Column("rules", JSON),
    Index("jobs_by_upload", "file_sha256"),
)

items = Table(
    "items",
    ledger,
    Column("task_id", Text, primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("round", Integer),
    Column("shard", Integer),
    Column("attempts", Integer, nullable=False),
    Column("known", Integer, nullable=False),
    Column("merged_round", Integer),
    Column("last_outcome", Text),
    Column("outcome", Text),
    Column("code", Text),
    Column("detail", Text),
    sqlite_with_rowid=False,
)

provider_batches = Table(
    "provider_batches",
    ledger,
    Column("task_id", Text, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("shard", Integer, primary_key=True),
    Column("shard_key", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("file_id", Text),
    Column("batch_id", Text),
    Column("batch_state", Text),
    Column("provider_state", Text),
    Column("finished", Integer, nullable=False),
    Column("problems", JSON),
    Column("was_unknown", Integer, nullable=False),
    Column("creates", Integer, nullable=False),
    Column("account", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_sha256", Text),
    Column("schema_sha256", Text),
    Column("rendered_at", Float, nullable=False),
    Column("submitting_at", Float),
    Column("unknown_at", Float),
    Column("submitted_at", Float),
    Column("ended_at", Float),
    Column("merged_at", Float),
    Column("discarded_at", Float),
    Column("tokens", Integer, nullable=False, server_default=text("0")),
    Column("uploaded_at", Float),
    Column("refusals", Integer, nullable=False, server_default=text("0")),
    Column("refused_at", Float),
    Column("refused_ids", JSON),
    Column("split", Integer, nullable=False, server_default=text("0")),
    Column("sent_after", Float),
    Column("first_item", Integer),
    Column("last_item", Integer),
    Column("kind", Text, nullable=False, server_default=text("'answer'")),
    Column("results", JSON),
)

drafts = Table(
    "drafts",
    ledger,
    Column("task_id", Text, primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("step", Text, nullable=False),
    Column("call", LargeBinary),
    Column("draft", LargeBinary),
    Column("text", Text),
    Column("feedback", Text),
    Column("repairs", Integer, nullable=False, server_default=text("0")),
    Column("verdict", Text),
    Column("score", Float),
    sqlite_with_rowid=False,
)

learned_limits = Table(
    "learned_limits",
    ledger,
    Column("account", Text, primary_key=True),
    Column("dialect", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("tokens", Integer),
    Column("shard_tokens", Integer),
    Column("told", Integer, nullable=False),
    Column("learned_at", Float, nullable=False),
)

calls = Table(
    "calls",
    ledger,
    Column("task_id", Text, primary_key=True),
    Column("call_id", Text, primary_key=True),
    Column("item", Integer, nullable=False),
    Column("mode", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", Text, nullable=False, server_default=text("'answer'")),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    ledger,
    Column("event_id", Integer, primary_key=True, autoincrement=True),
    Column("task_id", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("name", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Index("events_by_job", "task_id", "event_id"),
)

leases = Table(
    "leases",
    ledger,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", Integer, nullable=False),
    Column("expires_at", Float, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    ledger,
    Column("key_sha256", Text, primary_key=True),
    Column("request_sha256", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("idempotency_keys_by_time", "created_at"),
)

answers = Table(
    "answers",
    cache,
    Column("fingerprint", LargeBinary, primary_key=True),
    Column("answer", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("simulated", Integer, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("at", Float, nullable=False),
)
