"""Runs that any replica can go on with: fencing, mandates, approvals, checkpoints, sandbox sessions; assistants."""

from alembic import op

from deploy.migrations.roles import tenant_policy

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _assistants()
    _runs()
    _approvals()
    _checkpoints()
    _threads()
    for statements in (
        tenant_policy("assistants"),
        tenant_policy("assistant_versions", parent="assistants", key="assistant_id"),
        tenant_policy("approvals", parent="runs", key="run_id"),
        tenant_policy("tool_claims", parent="runs", key="run_id"),
        tenant_policy("thread_sessions", parent="threads", key="thread_id"),
        tenant_policy("thread_summaries", parent="threads", key="thread_id"),
        tenant_policy("checkpoints"),
        tenant_policy("checkpoint_blobs"),
        tenant_policy("checkpoint_writes"),
    ):
        for statement in statements:
            op.execute(statement)


def _assistants() -> None:
    op.execute("""
        CREATE TABLE assistants (
            assistant_id    uuid PRIMARY KEY,
            position        bigint GENERATED ALWAYS AS IDENTITY,  -- Orders lists; rises with creation.
            organization_id text NOT NULL,
            user_id         text NOT NULL,
            display_name    bytea NOT NULL,                       -- UTF-8.
            version         integer NOT NULL DEFAULT 1,           -- The latest.
            create_time     timestamptz NOT NULL DEFAULT now(),
            update_time     timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX assistants_of_owner ON assistants (organization_id, user_id, position DESC)")
    op.execute("""
        CREATE TABLE assistant_versions (
            assistant_id uuid NOT NULL REFERENCES assistants ON DELETE CASCADE,
            version      integer NOT NULL,
            version_id   uuid NOT NULL UNIQUE,                    -- What the request made that named itself.
            config       bytea NOT NULL,                          -- agent.v1.RunConfig, as its user gave it.
            create_time  timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (assistant_id, version)
        )
    """)


def _runs() -> None:
    op.execute("""
        ALTER TABLE runs
            ALTER COLUMN holder DROP NOT NULL,                    -- Nobody holds a run that waits: until lease_until.
            ADD COLUMN fence             bigint NOT NULL DEFAULT 1,   -- Rises whenever the run changes hands.
            ADD COLUMN attempt_count     integer NOT NULL DEFAULT 0,  -- How often it was taken from a lost replica.
            ADD COLUMN mandate           bytea,                   -- Sealed; gone once the run has ended.
            ADD COLUMN assistant_id      uuid,
            ADD COLUMN assistant_version integer NOT NULL DEFAULT 0,
            ADD COLUMN batch_id          uuid,                    -- Of StartRuns: the first run of the call.
            ADD COLUMN is_batch          boolean NOT NULL DEFAULT false,
            ADD COLUMN rollback_requested boolean NOT NULL DEFAULT false,
            ADD COLUMN watched_until     timestamptz,             -- NULL: the run goes on without watchers.
            DROP CONSTRAINT runs_status_check,
            DROP CONSTRAINT runs_check,
            ADD CONSTRAINT runs_status_check CHECK (status IN
                ('PENDING', 'RUNNING', 'INTERRUPTED', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'LIMITED')),
            ADD CONSTRAINT runs_check CHECK (
                (end_time IS NULL) = (status IN ('PENDING', 'RUNNING', 'INTERRUPTED')) AND
                (end_time IS NULL) = (outcome IS NULL))
    """)
    op.execute("DROP INDEX runs_one_works_on_a_thread")
    op.execute("""
        CREATE UNIQUE INDEX runs_one_works_on_a_thread ON runs (thread_id)
        WHERE status IN ('RUNNING', 'INTERRUPTED')
    """)
    op.execute("""
        CREATE INDEX runs_to_take ON runs (is_batch, lease_until, position) WHERE end_time IS NULL
    """)
    op.execute("DROP INDEX runs_by_lease")
    op.execute("CREATE INDEX runs_of_batch ON runs (batch_id, position) WHERE batch_id IS NOT NULL")


def _approvals() -> None:
    op.execute("""
        CREATE TABLE approvals (                                  -- What was decided. The questions are events.
            approval_id    uuid PRIMARY KEY,
            run_id         uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
            call_id        text NOT NULL,
            decision       text NOT NULL CHECK (decision IN ('APPROVED', 'EDITED', 'REJECTED', 'EXPIRED')),
            user_id        text NOT NULL,                         -- Who decided; empty: nobody in time.
            arguments_json bytea NOT NULL,                        -- EDITED: the other arguments.
            reason         bytea NOT NULL,                        -- REJECTED: told to the model.
            decide_time    timestamptz NOT NULL DEFAULT now(),
            UNIQUE (run_id, call_id)
        )
    """)
    op.execute("""
        CREATE TABLE tool_claims (                                -- Calls that must not be made twice, once begun.
            run_id     uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
            call_id    text NOT NULL,
            claim_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (run_id, call_id)
        )
    """)


def _checkpoints() -> None:
    """Keyed by the saver's own names. A run's are those whose `thread_id` is its run_id: they go with it."""
    op.execute("""
        CREATE TABLE checkpoints (
            organization_id text NOT NULL,
            thread_id       text NOT NULL,
            ns              text NOT NULL,
            checkpoint_id   text NOT NULL,                        -- Of one thread, rises with time.
            parent_id       text,
            channels        text[] NOT NULL,                      -- Whose values are blobs, of these versions.
            versions        text[] NOT NULL,
            body            bytea NOT NULL,                       -- Sealed.
            metadata        jsonb NOT NULL,                       -- Step, source, run: never content.
            create_time     timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (thread_id, ns, checkpoint_id)
        )
    """)
    op.execute("""
        CREATE TABLE checkpoint_blobs (
            organization_id text NOT NULL,
            thread_id       text NOT NULL,
            ns              text NOT NULL,
            channel         text NOT NULL,
            version         text NOT NULL,
            kind            text NOT NULL,
            blob            bytea NOT NULL,                       -- Sealed.
            PRIMARY KEY (thread_id, ns, channel, version)
        )
    """)
    op.execute("""
        CREATE TABLE checkpoint_writes (
            organization_id text NOT NULL,
            thread_id       text NOT NULL,
            ns              text NOT NULL,
            checkpoint_id   text NOT NULL,
            task_id         text NOT NULL,
            index           integer NOT NULL,
            task_path       text NOT NULL,
            channel         text NOT NULL,
            kind            text NOT NULL,
            blob            bytea NOT NULL,                       -- Sealed.
            PRIMARY KEY (thread_id, ns, checkpoint_id, task_id, index)
        )
    """)
    # In the database, so that whatever deletes a run, or a thread with its runs, forgets them as well.
    op.execute("""
        CREATE FUNCTION forget_checkpoints() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT
        AS $$ BEGIN
            DELETE FROM checkpoints WHERE thread_id IN (SELECT run_id::text FROM gone);
            DELETE FROM checkpoint_blobs WHERE thread_id IN (SELECT run_id::text FROM gone);
            DELETE FROM checkpoint_writes WHERE thread_id IN (SELECT run_id::text FROM gone);
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER forget_checkpoints AFTER DELETE ON runs REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION forget_checkpoints()
    """)


def _threads() -> None:
    op.execute("""
        CREATE TABLE thread_sessions (
            thread_id  uuid PRIMARY KEY REFERENCES threads ON DELETE CASCADE,
            target     text NOT NULL,                             -- The replica of the sandbox that has it.
            session_id text NOT NULL
        )
    """)
    op.execute("""
        CREATE TABLE thread_summaries (
            thread_id uuid PRIMARY KEY REFERENCES threads ON DELETE CASCADE,
            position  integer NOT NULL,                           -- The last message that it covers.
            summary   bytea NOT NULL                              -- UTF-8.
        )
    """)
