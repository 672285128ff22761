"""What was used: one row for each request, a partition for each day (UTC).

Rows are only added. They go when their day is older than what is kept, all at once. The service has no DDL, so the
days are made and dropped by a function that belongs to the owner and does nothing else; it leaves alone what is
younger than a week whatever it is told. A row whose day was not made in time goes into the default partition, and is
moved when the day is made.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

# `entry_id` is the writer's: a batch that was written, but whose reply was lost, is written again and counts once.
_ENTRIES = """
    CREATE TABLE usage_entries (
        entry_id           uuid NOT NULL,
        created_at         timestamptz NOT NULL,       -- When the request ended.
        stream_id          text NOT NULL,              -- Empty for what is no stream.
        organization_id    text NOT NULL,
        project_id         text NOT NULL,
        user_id            text NOT NULL,
        model              text NOT NULL,
        operation          text NOT NULL,              -- gen_ai.operation.name
        prompt_token_count bigint NOT NULL,
        output_token_count bigint NOT NULL,
        gpu_s              double precision NOT NULL,  -- A slot worked for it.
        queue_s            double precision NOT NULL,  -- It waited for a slot.
        is_cached          boolean NOT NULL,
        is_joined          boolean NOT NULL,
        is_cancelled       boolean NOT NULL,
        PRIMARY KEY (entry_id, created_at)
    ) PARTITION BY RANGE (created_at)
"""
# The default partition is locked before its rows are moved: else one could arrive after them and before the new
# partition, which could then not be attached. Whoever adds rows waits for that, some milliseconds a day.
_KEEP = r"""
    CREATE FUNCTION keep_usage_partitions(
        ahead_days integer, kept_days integer, OUT made_count integer, OUT dropped_count integer
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = inference, pg_temp SET lock_timeout = '2s'
    AS $$
    DECLARE
        today date := (now() AT TIME ZONE 'UTC')::date;
        day date;
        part text;
        low timestamptz;
        high timestamptz;
    BEGIN
        made_count := 0;
        dropped_count := 0;
        IF (ahead_days BETWEEN 1 AND 31 AND kept_days BETWEEN 7 AND 3660) IS NOT TRUE THEN
            RAISE invalid_parameter_value USING MESSAGE = 'days are out of bounds';
        END IF;
        IF NOT pg_try_advisory_xact_lock(hashtext('keep_usage_partitions')) THEN
            RETURN;  -- Another replica does it.
        END IF;
        FOR day IN SELECT generate_series(today - 1, today + ahead_days, '1 day')::date LOOP
            part := 'usage_entries_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(part) IS NOT NULL;
            low := day::timestamp AT TIME ZONE 'UTC';
            high := (day + 1)::timestamp AT TIME ZONE 'UTC';
            EXECUTE format('CREATE TABLE %I (LIKE usage_entries INCLUDING ALL)', part);
            EXECUTE format('REVOKE ALL ON %I FROM ollamesh_inference', part);
            LOCK TABLE usage_entries_default IN ACCESS EXCLUSIVE MODE;
            EXECUTE format(
                'WITH moved AS (DELETE FROM usage_entries_default WHERE created_at >= %L AND created_at < %L '
                'RETURNING *) INSERT INTO %I SELECT * FROM moved', low, high, part
            );
            EXECUTE format(
                'ALTER TABLE usage_entries ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part, low, high
            );
            made_count := made_count + 1;
        END LOOP;
        FOR part IN
            SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = 'usage_entries'::regclass AND relname ~ '^usage_entries_[0-9]{8}$'
            AND to_date(right(relname, 8), 'YYYYMMDD') < today - kept_days
        LOOP
            EXECUTE format('DROP TABLE %I', part);
            dropped_count := dropped_count + 1;
        END LOOP;
        DELETE FROM usage_entries_default WHERE created_at < (today - kept_days)::timestamp AT TIME ZONE 'UTC';
    END $$
"""


def upgrade() -> None:
    op.execute(_ENTRIES)
    op.execute("CREATE INDEX usage_of_user ON usage_entries (user_id, created_at DESC)")
    op.execute("CREATE INDEX usage_of_organization ON usage_entries (organization_id, created_at DESC)")
    op.execute("CREATE TABLE usage_entries_default PARTITION OF usage_entries DEFAULT")
    # What there is to grant was granted by default. Partitions are reached through their parent alone.
    op.execute("REVOKE ALL ON usage_entries_default FROM ollamesh_inference")
    op.execute("REVOKE UPDATE, DELETE ON usage_entries FROM ollamesh_inference")
    op.execute(_KEEP)
    op.execute("REVOKE ALL ON FUNCTION keep_usage_partitions FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION keep_usage_partitions TO ollamesh_inference")
    op.execute("SELECT keep_usage_partitions(7, 400)")
