"""Version files of the schema that the release before, or a busy table, would not survive: deploy/migrations/check.py judges them."""

from deploy.migrations.check import check

__all__ = ["check"]
