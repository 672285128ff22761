"""Backups of what must survive: PostgreSQL up to the last seconds, and the secrets without which its rows are noise."""
