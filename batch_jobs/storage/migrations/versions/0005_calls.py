"""Calls in one tree instead of three (table, id, job), and items without an index in no order: see storage.claims."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

COLUMNS = "task_id, call_id, item, mode, model, outcome, input_tokens, cached_tokens, output_tokens, cost_usd, at"


def upgrade() -> None:
    op.rename_table("calls", "calls_before")
    op.create_table(
        "calls",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("input_tokens", sa.Integer(), nullable=False),
        sa.Column("cached_tokens", sa.Integer(), nullable=False),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("cost_usd", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "call_id"),
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO calls ({COLUMNS}) SELECT {COLUMNS} FROM calls_before ORDER BY task_id, call_id")
    op.drop_table("calls_before")
    op.drop_index("items_under_way", table_name="items")
    op.add_column("provider_batches", sa.Column("sent_after", sa.Float(), nullable=True))
