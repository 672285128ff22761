"""Threads, their messages, their runs and what is told of them.

What users and models write is kept as the bytes of the API's own messages (`payload`, `config`,
`usage`, `outcome`): text columns cannot hold U+0000, and nothing here is ever searched by content.
"""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _threads()
    _runs()
    _requests()


def _threads() -> None:
    op.execute("COMMENT ON SCHEMA agent IS 'Conversations, and the work on them.'")
    op.execute("""
        CREATE TABLE threads (
            thread_id       uuid PRIMARY KEY,
            position        bigint GENERATED ALWAYS AS IDENTITY,  -- Orders lists; rises with creation.
            organization_id text NOT NULL,
            user_id         text NOT NULL,
            payload         bytea NOT NULL,                       -- agent.v1.Thread: what its user calls it.
            message_count   integer NOT NULL DEFAULT 0,
            create_time     timestamptz NOT NULL DEFAULT now(),
            update_time     timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX threads_of_owner ON threads (organization_id, user_id, position DESC)")
    op.execute("""
        CREATE TABLE messages (
            thread_id   uuid NOT NULL REFERENCES threads ON DELETE CASCADE,
            position    integer NOT NULL,                         -- From 1, without a gap.
            run_id      uuid NOT NULL,
            message_id  uuid NOT NULL DEFAULT gen_random_uuid(),
            payload     bytea NOT NULL,                           -- agent.v1.Message: what was said.
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (thread_id, position)
        )
    """)


def _runs() -> None:
    op.execute("""
        CREATE TABLE runs (
            run_id           uuid PRIMARY KEY,
            thread_id        uuid NOT NULL REFERENCES threads ON DELETE CASCADE,
            position         bigint GENERATED ALWAYS AS IDENTITY, -- Whose turn it is in a thread.
            input            bytea NOT NULL,                      -- UTF-8.
            config           bytea NOT NULL,                      -- agent.v1.RunConfig, defaults filled in.
            status           text NOT NULL DEFAULT 'PENDING' CHECK (status IN
                ('PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'LIMITED')),
            usage            bytea NOT NULL DEFAULT '',           -- agent.v1.RunUsage, so far.
            outcome          bytea,                               -- agent.v1.RunEvent.Finished, once ended.
            last_sequence    bigint NOT NULL DEFAULT 0,
            holder           uuid NOT NULL,                       -- The replica that answers for the run,
            lease_until      timestamptz NOT NULL,                -- until then, unless it says so again.
            cancel_requested boolean NOT NULL DEFAULT false,
            create_time      timestamptz NOT NULL DEFAULT now(),
            start_time       timestamptz,
            end_time         timestamptz,
            CHECK ((end_time IS NULL) = (status IN ('PENDING', 'RUNNING')) AND
                   (end_time IS NULL) = (outcome IS NULL))
        )
    """)
    op.execute("CREATE INDEX runs_of_thread ON runs (thread_id, position DESC)")
    op.execute("CREATE UNIQUE INDEX runs_one_works_on_a_thread ON runs (thread_id) WHERE status = 'RUNNING'")
    op.execute("CREATE INDEX runs_by_lease ON runs (lease_until) WHERE end_time IS NULL")
    op.execute("""
        CREATE TABLE run_events (
            run_id   uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
            sequence bigint NOT NULL,
            payload  bytea NOT NULL,                              -- agent.v1.RunEvent, as watchers get it.
            PRIMARY KEY (run_id, sequence)
        )
    """)


def _requests() -> None:
    op.execute("""
        CREATE TABLE requests (
            organization_id text NOT NULL,
            user_id         text NOT NULL,
            request_id      text NOT NULL,
            body_hash       bytea NOT NULL,
            object_id       uuid NOT NULL,                        -- What the request made.
            create_time     timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, user_id, request_id)
        )
    """)
    op.execute("CREATE INDEX requests_by_age ON requests (create_time)")
