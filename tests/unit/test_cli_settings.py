"""Where the mesh is and who is calling: which secret goes where."""

import os
import time
from pathlib import Path

import pytest
from ollamesh.client import Password, StaticToken

from clients.cli.connection import credentials
from clients.cli.failures import Denied
from clients.cli.settings import DEFAULT_EDGE, Login, Settings
from deploy.local import board
from deploy.local.process import identify

LOCAL = "http://127.0.0.1:1234"
REMOTE = "https://mesh.example"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a local stack whose admin's password is known."""
    secrets = tmp_path / "home" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "admin_password").write_text("hunter2\n")
    return tmp_path / "home"


def settings(home: Path, edge: str | None = LOCAL, token: str | None = None) -> Settings:
    return Settings(home=home, edge_given=edge, token_given=token)


def login(edge: str, *, lives_s: float = 60) -> Login:
    return Login(edge=edge, username="bob", token="bobs", expires_at_s=time.time() + lives_s)


def test_the_edge_is_what_is_given_or_the_running_stacks_or_the_usual(home: Path) -> None:
    assert settings(home, "http://127.0.0.1:1234/").edge == LOCAL
    assert settings(home, None).edge == DEFAULT_EDGE
    me = identify(os.getpid())
    assert me
    board.write(
        home,
        board.Board(supervisor=me, warden=None, ready=True, edge="http://127.0.0.1:4321", model_source=""),
    )
    assert settings(home, None).edge == "http://127.0.0.1:4321"


@pytest.mark.parametrize("edge", [LOCAL, "http://localhost:1", "127.0.0.1:8080", "http://[::1]:1"])
def test_on_this_machine_one_is_the_stacks_admin(home: Path, edge: str) -> None:
    assert credentials(settings(home, edge)) == Password("admin", "hunter2")


@pytest.mark.parametrize(
    "edge", [REMOTE, "http://127.0.0.1.mesh.example", "http://127.0.0.1@mesh.example:80"]
)
def test_the_stacks_password_leaves_this_machine_never(home: Path, edge: str) -> None:
    with pytest.raises(Denied, match="nobody is logged in"):
        credentials(settings(home, edge))


def test_a_given_token_comes_first_then_a_login(home: Path) -> None:
    settings(home).save_login(login(LOCAL))
    assert credentials(settings(home, token="given")) == StaticToken("given")
    assert credentials(settings(home)) == StaticToken("bobs")


def test_a_login_is_good_for_its_own_mesh_only(home: Path) -> None:
    settings(home, REMOTE).save_login(login(REMOTE))
    assert credentials(settings(home, REMOTE)) == StaticToken("bobs")
    assert credentials(settings(home)) == Password("admin", "hunter2")


def test_an_expired_login_is_not_silently_somebody_else(home: Path) -> None:
    settings(home).save_login(login(LOCAL, lives_s=-1))
    with pytest.raises(Denied, match="bob has expired"):
        credentials(settings(home))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"edge": 1}'])
def test_a_broken_login_file_is_no_login(home: Path, text: str) -> None:
    settings(home).login_file.write_text(text)
    assert credentials(settings(home)) == Password("admin", "hunter2")


def test_only_its_owner_can_read_a_login(home: Path) -> None:
    settings(home).save_login(login(LOCAL))
    assert settings(home).login_file.stat().st_mode & 0o777 == 0o600


def test_without_a_stack_a_login_is_kept_with_other_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    elsewhere = settings(tmp_path / "none", REMOTE)
    elsewhere.save_login(login(REMOTE))
    assert (tmp_path / "config" / "ollamesh" / "login.json").stat().st_mode & 0o777 == 0o600
    assert credentials(elsewhere) == StaticToken("bobs")
