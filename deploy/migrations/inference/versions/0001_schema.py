"""The schema, described."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("COMMENT ON SCHEMA inference IS 'What the inference gateway must not lose.'")
