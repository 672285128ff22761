"""Alembic's environment for every service: it only writes down the SQL; `runner` carries it out.

Nothing connects here, so version files hold SQL (`op.execute`) and cannot depend on rows they read.
"""

from alembic import context

context.configure(
    url="postgresql+asyncpg://",  # Names the dialect; never connected to.
    version_table_schema=context.config.get_main_option("service"),
    transaction_per_migration=True,
)
context.run_migrations()
