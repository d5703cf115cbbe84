"""What a shard weighs in a provider's queue, how often the queue was full for it, and the limits that this taught."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
NONE_YET = sa.text("0")


def upgrade() -> None:
    table = "provider_batches"
    op.add_column(table, sa.Column("tokens", sa.Integer(), nullable=False, server_default=NONE_YET))
    op.add_column(table, sa.Column("uploaded_at", sa.Float(), nullable=True))
    op.add_column(table, sa.Column("refusals", sa.Integer(), nullable=False, server_default=NONE_YET))
    op.add_column(table, sa.Column("refused_at", sa.Float(), nullable=True))
    op.add_column(table, sa.Column("refused_ids", sa.JSON(), nullable=True))
    op.add_column(table, sa.Column("split", sa.Integer(), nullable=False, server_default=NONE_YET))
    op.execute(f"UPDATE {table} SET tokens = (bytes + 3) / 4")
    op.create_table(
        "learned_limits",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("dialect", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=True),
        sa.Column("shard_tokens", sa.Integer(), nullable=True),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("learned_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "dialect", "model"),
    )
