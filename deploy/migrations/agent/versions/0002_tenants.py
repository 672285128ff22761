"""Row-level security: what is asked for one organisation sees and writes that one's rows only."""

from alembic import op

from deploy.migrations.roles import tenant_policy

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for statements in (
        tenant_policy("threads"),
        tenant_policy("messages", parent="threads", key="thread_id"),
        tenant_policy("runs", parent="threads", key="thread_id"),
        tenant_policy("run_events", parent="runs", key="run_id"),
        tenant_policy("requests"),
    ):
        for statement in statements:
            op.execute(statement)
