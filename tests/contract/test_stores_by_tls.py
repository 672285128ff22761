"""PostgreSQL and Redis by TLS, said in their URLs: the server is verified, and who is another is not spoken to."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.common.errors import StoreUnavailable
from services.common.postgres import Database
from services.inference.adapters.redis_link import RedisAway, RedisLink
from tests import stack
from tests.fakes.authority import Authority
from tests.fakes.tls_gate import tls_before


async def test_postgres_is_verified(database: stack.Database, tmp_path: Path) -> None:
    authority, dsn = Authority(), urlsplit(database("auth"))
    files = authority.issue("localhost", tmp_path)
    other = Authority().issue("localhost", tmp_path / "other")
    assert dsn.port is not None
    async with tls_before(dsn.port, files, postgres=True) as port:
        for authorities, name, is_good in (
            (files.authorities, "localhost", True),
            (other.authorities, "localhost", False),
            (files.authorities, "127.0.0.1", False),  # A name that the certificate does not have.
        ):
            netloc = f"{dsn.username}:{dsn.password}@{name}:{port}"
            url = dsn._replace(netloc=netloc, query=f"sslmode=verify-full&sslrootcert={authorities}")
            async with Database.connect(url.geturl(), connections_max=1) as pool:
                if is_good:
                    async with pool.connection() as connection:
                        assert await connection.fetchval("SELECT 1") == 1
                    continue
                with pytest.raises(StoreUnavailable):
                    async with pool.connection():
                        pass


async def test_redis_is_verified(redis_server: stack.RedisServer, tmp_path: Path) -> None:
    files = Authority().issue("localhost", tmp_path)
    other = Authority().issue("localhost", tmp_path / "other")
    async with tls_before(redis_server.port, files) as port:
        for authorities, name, is_good in (
            (files.authorities, "localhost", True),
            (other.authorities, "localhost", False),
            (files.authorities, "127.0.0.1", False),
        ):
            url = f"rediss://:{redis_server.password}@{name}:{port}/0?ssl_ca_certs={authorities}"
            async with RedisLink.opened(url, timeout_s=5) as link:
                if is_good:
                    assert await link.ask(("PING",)) == [b"PONG"]
                    continue
                with pytest.raises(RedisAway):
                    await link.ask(("PING",))
