"""Every test may ask for a real PostgreSQL, Redis or stack by naming its fixture."""

from tests.stack import database, module_database, postgres_server, redis_server, redis_url

__all__ = ["database", "module_database", "postgres_server", "redis_server", "redis_url"]
