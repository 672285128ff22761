"""`python -m deploy.backup create|follow|ls|verify|restore`."""

from deploy.backup.commands import backup

if __name__ == "__main__":
    backup(prog_name="python -m deploy.backup")
