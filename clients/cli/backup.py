"""`ollamesh backup`: the commands of deploy/backup, for the stack on this machine."""

from deploy.backup.commands import backup

__all__ = ["backup"]
