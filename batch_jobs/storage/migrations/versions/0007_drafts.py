"""Answers that are not final yet: what a judge, or the check against the schema, said of them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("rules", sa.JSON(), nullable=True))
    op.add_column("provider_batches", sa.Column("kind", sa.Text(), nullable=False, server_default=sa.text("'answer'")))
    op.create_table(
        "drafts",
        sa.Column("task_id", sa.Text(), primary_key=True),
        sa.Column("item", sa.Integer(), primary_key=True),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("call", sa.LargeBinary(), nullable=True),
        sa.Column("draft", sa.LargeBinary(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("feedback", sa.Text(), nullable=True),
        sa.Column("repairs", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sqlite_with_rowid=False,
    )
