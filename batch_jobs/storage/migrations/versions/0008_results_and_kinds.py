"""How many bytes each raw result file had when it was fetched, and what each call asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("provider_batches", sa.Column("results", sa.JSON(), nullable=True))
    op.add_column("calls", sa.Column("kind", sa.Text(), nullable=False, server_default=sa.text("'answer'")))
