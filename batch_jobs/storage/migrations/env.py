"""Alembic's entry: runs the ledger's migrations on the connection that `storage.migrate` hands over."""

from alembic import context

from batch_jobs.storage import schema

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=schema.ledger, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
