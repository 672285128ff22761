"""Limits of organisations, projects and keys; what each has used of a day; and what is set aside for work under way.

What is set aside counts while its lease lasts. So nothing has to be done for a lease to end, and whoever set it aside may
die. Times are the database's. Amounts are whole numbers (GPU time in microseconds), so that sums are exact.
"""

from alembic import op

from deploy.migrations.roles import tenant_policy

revision = "0005"
down_revision = "0004"

_LIMITS = """
    CREATE TABLE quotas (
        organization_id text NOT NULL,
        kind text NOT NULL CHECK (kind IN ('organization', 'project', 'api_key')),
        subject_id text NOT NULL,
        requests_per_second float8 CHECK (requests_per_second BETWEEN 0 AND 100000),
        request_burst_count integer CHECK (request_burst_count >= 0),
        tokens_per_day bigint CHECK (tokens_per_day >= 0),
        gpu_seconds_per_day float8 CHECK (gpu_seconds_per_day >= 0 AND gpu_seconds_per_day < 'infinity'),
        concurrent_stream_count integer CHECK (concurrent_stream_count >= 0),
        batch_items_per_day integer CHECK (batch_items_per_day >= 0),
        update_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (organization_id, kind, subject_id),
        CHECK (kind <> 'organization' OR subject_id = organization_id)
    )
"""
_USAGE = """
    CREATE TABLE quota_usage (
        organization_id text NOT NULL,
        kind text NOT NULL,
        subject_id text NOT NULL,
        day date NOT NULL,  -- In UTC.
        token_count bigint NOT NULL,
        gpu_us bigint NOT NULL,
        batch_item_count bigint NOT NULL,
        PRIMARY KEY (organization_id, kind, subject_id, day)
    ) WITH (fillfactor = 50)  -- Its rows are updated all day long.
"""
_RESERVATIONS = """
    CREATE TABLE quota_reservations (
        reservation_id text PRIMARY KEY CHECK (length(reservation_id) BETWEEN 1 AND 64),
        organization_id text NOT NULL,
        project_id text NOT NULL,
        api_key_id text NOT NULL,  -- Empty where no key was used.
        day date NOT NULL,         -- What is used under it counts for that one, however late.
        granted_token_count bigint NOT NULL,
        granted_gpu_us bigint NOT NULL,
        granted_batch_item_count bigint NOT NULL,
        used_token_count bigint NOT NULL DEFAULT 0,
        used_gpu_us bigint NOT NULL DEFAULT 0,
        used_batch_item_count bigint NOT NULL DEFAULT 0,
        lease_until timestamptz NOT NULL
    ) WITH (fillfactor = 50)
"""


def upgrade() -> None:
    for statement in (_LIMITS, _USAGE, _RESERVATIONS):
        op.execute(statement)
    op.execute("CREATE INDEX quota_usage_by_day ON quota_usage (day)")
    op.execute(
        "CREATE INDEX quota_reservations_live ON quota_reservations (organization_id, day, lease_until)"
    )
    op.execute("CREATE INDEX quota_reservations_old ON quota_reservations (lease_until)")
    for table in ("quotas", "quota_usage", "quota_reservations"):
        for statement in tenant_policy(table):
            op.execute(statement)
