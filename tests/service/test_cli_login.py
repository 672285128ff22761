"""Being somebody on the command line, against the real auth service: a login lasts, and logging out ends it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest_asyncio

from tests.fakes.command_line import Cli
from tests.service.auth_app import ADMIN_PASSWORD, Auth, config, serving
from tests.stack import Database


@pytest_asyncio.fixture
async def auth(database: Database) -> AsyncIterator[Auth]:
    async with serving(config(database("auth"))) as running:
        yield running


async def families(database: Database) -> list[tuple[int, bool]]:
    """The generation of each login, and whether it is over."""
    connection = await asyncpg.connect(database("auth"))
    rows = await connection.fetch("SELECT generation, revoke_time FROM refresh_families ORDER BY create_time")
    await connection.close()
    return [(row["generation"], row["revoke_time"] is not None) for row in rows]


async def test_a_login_lasts_beyond_its_token_until_logging_out(
    auth: Auth, tmp_path: Path, database: Database
) -> None:
    (tmp_path / "secrets").mkdir()
    cli, file = Cli(tmp_path, f"http://127.0.0.1:{auth.port}"), tmp_path / "secrets" / "login.json"

    async def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
        result = await asyncio.to_thread(cli, *arguments, stdin=stdin)
        return result.exit_code, result.output.splitlines()[
            -1
        ] if result.output else ""  # Above: the service's log.

    code, said = await run("login", "--username", "admin", "--password-stdin", stdin=f"{ADMIN_PASSWORD}\n")
    assert (code, said) == (0, f"logged in to {cli.environment['OLLAMESH_EDGE']} as admin")
    assert file.stat().st_mode & 0o777 == 0o600
    assert ADMIN_PASSWORD not in file.read_text()
    saved = json.loads(file.read_text())
    assert await run("token") == (0, saved["token"])

    file.write_text(json.dumps(saved | {"expires_at_s": 0}))
    code, token = await run("token")
    assert code == 0
    assert token != saved["token"]
    renewed = json.loads(file.read_text())
    assert renewed["token"] == token
    assert renewed["refresh_token"] != saved["refresh_token"]
    assert renewed["username"] == "admin"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    assert await families(database) == [(2, False)]

    assert (await run("logout"))[0] == 0
    assert not file.exists()
    assert await families(database) == [(2, True)]
    assert (await run("logout"))[0] == 0
    assert (await run("token"))[0] == 4


async def test_a_login_that_is_over_says_so_and_is_forgotten_by_logging_out(
    auth: Auth, tmp_path: Path
) -> None:
    (tmp_path / "secrets").mkdir()
    cli, file = Cli(tmp_path, f"http://127.0.0.1:{auth.port}"), tmp_path / "secrets" / "login.json"
    file.write_text(
        json.dumps(
            {
                "edge": cli.environment["OLLAMESH_EDGE"],
                "username": "admin",
                "token": "old",
                "expires_at_s": 0,
                "refresh_token": "omr_" + "A" * 64,
            }
        )
    )
    result = await asyncio.to_thread(cli, "token")
    assert result.exit_code == 4
    assert "log in again (GRANT_INVALID)" in result.stderr
    assert (await asyncio.to_thread(cli, "login", "--forget")).exit_code == 0
    assert not file.exists()
