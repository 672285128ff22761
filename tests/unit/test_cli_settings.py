"""Where the mesh is and who is calling: which secret goes where."""

import time
from pathlib import Path

import msgspec
import pytest
from ollamesh.client import Password, StaticToken

from clients.cli.connection import credentials
from clients.cli.failures import Denied
from clients.cli.settings import DEFAULT_EDGE, Login, Settings
from deploy.local import board
from tests.fakes.command_line import pretend_to_be_a_stack
from tests.fakes.scripted_mesh import PASSWORD

LOCAL = "http://127.0.0.1:1234"
REMOTE = "https://mesh.example"
ADMIN = Password("admin", PASSWORD)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a local stack that runs at LOCAL and whose admin's password is known."""
    pretend_to_be_a_stack(tmp_path, LOCAL)
    return tmp_path


def settings(home: Path, edge: str | None = LOCAL, token: str | None = None) -> Settings:
    return Settings(home=home, edge_given=edge, token_given=token)


def login(edge: str, *, lives_s: float = 60) -> Login:
    return Login(edge=edge, username="bob", token="bobs", expires_at_s=time.time() + lives_s)


def test_the_edge_is_what_is_given_or_the_running_stacks_or_the_usual(home: Path, tmp_path: Path) -> None:
    assert settings(home, f"{REMOTE}/").edge == REMOTE
    assert settings(home, None).edge == LOCAL
    assert settings(tmp_path / "none", None).edge == DEFAULT_EDGE


@pytest.mark.parametrize("edge", [None, LOCAL, f"{LOCAL}/"])
def test_at_the_stacks_own_edge_one_is_its_admin(home: Path, edge: str | None) -> None:
    assert credentials(settings(home, edge)) == ADMIN


@pytest.mark.parametrize(
    "edge", [REMOTE, "http://127.0.0.1:4321", f"{LOCAL}.mesh.example", "http://127.0.0.1:1234@mesh.example"]
)
def test_the_stacks_password_goes_to_its_own_edge_only(home: Path, edge: str) -> None:
    with pytest.raises(Denied, match="nobody is logged in"):
        credentials(settings(home, edge))


def test_with_tls_it_is_the_same_stack_and_its_authority_is_believed(home: Path, tmp_path: Path) -> None:
    running = board.read(home)
    assert running is not None
    board.write(home, msgspec.structs.replace(running, edge_tls="https://127.0.0.1:2345"))
    (home / "tls").mkdir()
    (home / "tls" / "ca.pem").touch()
    secure = settings(home, "https://127.0.0.1:2345")
    assert credentials(secure) == ADMIN
    assert secure.ca == home / "tls" / "ca.pem"
    assert settings(home, REMOTE).ca is None, "elsewhere the system's own are believed"
    own = Settings(home=home, edge_given=REMOTE, token_given=None, ca_given=tmp_path / "own.pem")
    assert own.ca == tmp_path / "own.pem"


def test_a_stack_that_does_not_run_gets_no_password(home: Path) -> None:
    board.remove(home)
    with pytest.raises(Denied, match="nobody is logged in"):
        credentials(settings(home, DEFAULT_EDGE))


def test_a_given_token_comes_first_then_a_login(home: Path) -> None:
    settings(home).save_login(login(LOCAL))
    assert credentials(settings(home, token="given")) == StaticToken("given")
    assert credentials(settings(home)) == StaticToken("bobs")


def test_a_login_is_good_for_its_own_mesh_only(home: Path) -> None:
    settings(home, REMOTE).save_login(login(REMOTE))
    assert credentials(settings(home, REMOTE)) == StaticToken("bobs")
    assert credentials(settings(home)) == ADMIN


def test_an_expired_login_is_not_silently_somebody_else(home: Path) -> None:
    settings(home).save_login(login(LOCAL, lives_s=-1))
    with pytest.raises(Denied, match="bob has expired"):
        credentials(settings(home))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"edge": 1}'])
def test_a_broken_login_file_is_no_login(home: Path, text: str) -> None:
    settings(home).login_file.write_text(text)
    assert credentials(settings(home)) == ADMIN


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
