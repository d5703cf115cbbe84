"""A shard knows between which items its own are, so that they are found without an index that each sending rewrites."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_index("items_by_shard", table_name="items")
    op.add_column("provider_batches", sa.Column("first_item", sa.Integer(), nullable=True))
    op.add_column("provider_batches", sa.Column("last_item", sa.Integer(), nullable=True))
