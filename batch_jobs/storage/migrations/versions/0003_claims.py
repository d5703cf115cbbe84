"""Claims of items under way, found by fingerprint; when a job was resumed; what a provider no longer keeps."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
UNDER_WAY = sa.text("outcome IS NULL AND round IS NOT NULL")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("resumed_at", sa.Float(), nullable=True))
    op.add_column("provider_batches", sa.Column("discarded_at", sa.Float(), nullable=True))
    op.create_index(
        "items_under_way",
        "items",
        ["fingerprint"],
        unique=False,
        sqlite_where=UNDER_WAY,
        postgresql_where=UNDER_WAY,
    )
