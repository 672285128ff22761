"""People who own API keys: put into the database as they are needed, and logged in."""

import asyncpg
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.common.grpc.client import bearer
from tests.service.auth_app import ADMIN_PASSWORD, TIMEOUT_S, Auth
from tests.stack import Database

Metadata = tuple[tuple[str, str], ...]


async def add_user(
    database: Database, name: str, *, organization: str = "default", role: str = "user"
) -> None:
    """Somebody with the admin's password. Done by the database's owner, whatever services may see of it."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute(
            "INSERT INTO auth.organizations (organization_id, display_name) VALUES ($1, $1) ON CONFLICT DO NOTHING",
            organization,
        )
        await connection.execute(
            "INSERT INTO auth.projects (organization_id, project_id, display_name) VALUES ($1, 'default', 'x') "
            "ON CONFLICT DO NOTHING",
            organization,
        )
        await connection.execute(
            "INSERT INTO auth.users (user_id, organization_id, project_id, username, password_hash, role) "
            "SELECT $1, $3, 'default', $2, password_hash, $4 FROM auth.users WHERE username = 'admin'",
            f"user:{name}",
            name,
            organization,
            role,
        )
    finally:
        await connection.close()


async def run_sql(database: Database, statement: str, *values: object) -> None:
    """Change what no service would."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute("SET search_path = auth")
        await connection.execute(statement, *values)
    finally:
        await connection.close()


async def login(auth: Auth, username: str = "admin", **more: object) -> Metadata:
    request = pb.LoginRequest(username=username, password=ADMIN_PASSWORD, **more)  # type: ignore[arg-type]
    answer = await auth.service.Login(request, timeout=TIMEOUT_S)
    return bearer(answer.tokens.access_token)


async def make_key(auth: Auth, who: Metadata, **wish: object) -> pb.CreateApiKeyResponse:
    request = pb.CreateApiKeyRequest(**{"display_name": "mine", **wish})  # type: ignore[arg-type]
    return await auth.service.CreateApiKey(request, metadata=who, timeout=TIMEOUT_S)
