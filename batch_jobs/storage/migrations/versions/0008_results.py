"""How many bytes each raw result file had when it was fetched: one that is gone or cut off since is fetched again."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("provider_batches", sa.Column("results", sa.JSON(), nullable=True))
