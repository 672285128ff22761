"""A client before a scripted mesh."""

from collections.abc import AsyncIterator

import pytest
from ollamesh.client import Client, Password, resuming

from tests.fakes.scripted_mesh import PASSWORD, USERNAME, ScriptedMesh


@pytest.fixture
async def mesh() -> AsyncIterator[ScriptedMesh]:
    async with ScriptedMesh().serving() as mesh:
        yield mesh


@pytest.fixture
async def client(mesh: ScriptedMesh) -> AsyncIterator[Client]:
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as client:
        yield client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back at once to what broke off."""
    monkeypatch.setattr(resuming, "RECONNECT_AFTER_MAX_S", 0.001)
