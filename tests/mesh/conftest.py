"""A caller's view of the whole stack, which tests/stack.py starts once for all of them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.local import stack
from deploy.local.secret_files import SecretFiles
from deploy.local.settings import Settings
from tests.mesh.edge import Edge
from tests.mesh.web import WebClient, install


@pytest.fixture(scope="session")
def edge(mesh: Settings) -> Edge:
    """The mesh as a caller sees it."""
    url = stack.status(mesh).edge
    assert url is not None
    secrets = SecretFiles(mesh.home)
    with ThreadPoolExecutor(1) as thread:  # A fixture may be asked for inside an event loop.
        key_id, sealed = thread.submit(asyncio.run, _sealed_key(secrets.read("auth_database_url"))).result()
    private = Fernet(secrets.read("encryption_key")).decrypt(sealed)
    key = serialization.load_der_private_key(private, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Edge(url, secrets.read("admin_password"), key, key_id)


@pytest.fixture(scope="session")
def web_client() -> WebClient:
    return install()


async def _sealed_key(dsn: str) -> tuple[str, bytes]:
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            "SELECT key_id, sealed_key FROM signing_keys ORDER BY active_from LIMIT 1"
        )
        assert row is not None
        return row["key_id"], row["sealed_key"]
    finally:
        await connection.close()
