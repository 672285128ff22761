"""Batches, their items that are still to be done, and the results of those that are.

A result takes its item's place: one transaction deletes the one and inserts the other, so an item cannot be done twice,
and what is left to do is a small table. What users and models write is kept as the bytes of the API's own messages: text
columns cannot hold U+0000, and nothing here is ever searched by content.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _batches()
    _items()
    _results()
    _requests()
    _files()


def _batches() -> None:
    op.execute("""
        CREATE TABLE batches (
            batch_id        uuid PRIMARY KEY,
            position        bigint GENERATED ALWAYS AS IDENTITY,  -- Orders lists; rises with creation.
            organization_id text NOT NULL,
            project_id      text NOT NULL,
            user_id         text NOT NULL,
            roles           text[] NOT NULL,                      -- Of its creator: what bounds its items.
            display_name    bytea NOT NULL,                       -- UTF-8.
            origin          bytea,                                -- What else its creator said, if another API than ours.
            state           text NOT NULL DEFAULT 'PENDING' CHECK (state IN
                ('PENDING', 'RUNNING', 'DONE', 'CANCELLED')),
            item_count      integer NOT NULL CHECK (item_count > 0),
            succeeded_count integer NOT NULL DEFAULT 0,
            failed_count    integer NOT NULL DEFAULT 0,           -- Results are numbered 1 to the sum of both.
            create_time     timestamptz NOT NULL DEFAULT now(),
            start_time      timestamptz,
            end_time        timestamptz,
            left_over       boolean NOT NULL DEFAULT false,       -- It has ended, and may have items to be swept away.
            due_time        timestamptz NOT NULL,                 -- Items are worked on until then.
            expire_time     timestamptz NOT NULL,                 -- Then all of it is deleted.
            CHECK ((end_time IS NULL) = (state IN ('PENDING', 'RUNNING'))),
            CHECK ((state = 'DONE') <= (succeeded_count + failed_count = item_count))
        )
    """)
    op.execute("CREATE INDEX batches_of_owner ON batches (organization_id, user_id, position DESC)")
    op.execute("CREATE INDEX batches_open ON batches (organization_id, position) WHERE end_time IS NULL")
    op.execute("CREATE INDEX batches_left_over ON batches (batch_id) WHERE left_over")
    op.execute("CREATE INDEX batches_by_expiry ON batches (expire_time)")


def _items() -> None:
    op.execute("""
        CREATE TABLE batch_items (
            batch_id       uuid NOT NULL REFERENCES batches ON DELETE CASCADE,
            item_index     integer NOT NULL,
            request        bytea NOT NULL,                        -- inference.v1.BatchItem.
            due_time       timestamptz NOT NULL DEFAULT now(),    -- Before that, nobody may take it: it is put back,
                                                                  -- or somebody has it who says so again before then.
            take_count     bigint NOT NULL DEFAULT 0,             -- The fence: who took it last may write its result.
            attempt_count  integer NOT NULL DEFAULT 0,            -- Takes that were lost, and the one that goes on.
            put_back_count integer NOT NULL DEFAULT 0,
            PRIMARY KEY (batch_id, item_index)
        )
    """)
    op.execute("""
        CREATE INDEX batch_items_new ON batch_items (batch_id, due_time, item_index) WHERE attempt_count = 0
    """)
    # Those that are held, and those that were lost: never many.
    op.execute("CREATE INDEX batch_items_begun ON batch_items (due_time) WHERE attempt_count > 0")


def _results() -> None:
    op.execute("""
        CREATE TABLE batch_results (
            batch_id   uuid NOT NULL REFERENCES batches ON DELETE CASCADE,
            sequence   bigint NOT NULL,                           -- From 1, without a gap.
            item_index integer NOT NULL,
            succeeded  boolean NOT NULL,
            payload    bytea NOT NULL,                            -- StreamBatchResultsResponse without its sequence.
            PRIMARY KEY (batch_id, sequence),
            UNIQUE (batch_id, item_index)
        )
    """)


def _requests() -> None:
    op.execute("""
        CREATE TABLE batch_requests (
            organization_id text NOT NULL,
            user_id         text NOT NULL,
            request_id      text NOT NULL,
            body_hash       bytea NOT NULL,
            batch_id        uuid NOT NULL,                        -- What the request made.
            create_time     timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, user_id, request_id)
        )
    """)
    op.execute("CREATE INDEX batch_requests_by_age ON batch_requests (create_time)")


def _files() -> None:
    """What OpenAI's clients upload before they make a batch of it."""
    op.execute("""
        CREATE TABLE files (
            file_id         uuid PRIMARY KEY,
            position        bigint GENERATED ALWAYS AS IDENTITY,  -- Orders lists; rises with creation.
            organization_id text NOT NULL,
            user_id         text NOT NULL,
            filename        bytea NOT NULL,                       -- UTF-8.
            size_bytes      bigint NOT NULL,
            create_time     timestamptz NOT NULL DEFAULT now(),
            expire_time     timestamptz NOT NULL
        )
    """)
    op.execute("CREATE INDEX files_of_owner ON files (organization_id, user_id, position DESC)")
    op.execute("CREATE INDEX files_by_expiry ON files (expire_time)")
    op.execute("""
        CREATE TABLE file_parts (
            file_id    uuid NOT NULL REFERENCES files ON DELETE CASCADE,
            part_index integer NOT NULL,
            content    bytea NOT NULL,
            PRIMARY KEY (file_id, part_index)
        )
    """)
