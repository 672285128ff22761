"""Row-level security: what is asked for one organisation sees and writes that one's rows only."""

from alembic import op

from deploy.migrations.roles import tenant_policy

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for statements in (
        tenant_policy("usage_entries"),  # Its days are reached through it alone.
        tenant_policy("batches"),
        tenant_policy("batch_items", parent="batches", key="batch_id"),
        tenant_policy("batch_results", parent="batches", key="batch_id"),
        tenant_policy("batch_requests"),
        tenant_policy("files"),
        tenant_policy("file_parts", parent="files", key="file_id"),
    ):
        for statement in statements:
            op.execute(statement)
