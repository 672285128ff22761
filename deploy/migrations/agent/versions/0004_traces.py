"""In which trace a run was accepted, so that whoever goes on with it elsewhere can lead back there."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # W3C's traceparent. NULL: nobody traced it.
    op.execute("ALTER TABLE runs ADD COLUMN trace_parent text")
