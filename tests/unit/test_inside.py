"""Who a process is inside: what a service needs to start, and what it refuses to start with."""

from pathlib import Path

import pytest

from services.common.certificates import LOOK_EVERY_S, CertificateError, Files, Followed, read
from services.common.config import ConfigError, Environment
from services.common.inside import Inside
from tests.fakes.authority import Authority

NAMES = ("OLLAMESH_TLS_CERT", "OLLAMESH_TLS_KEY", "OLLAMESH_TLS_CA")


def variables(files: Files) -> dict[str, str]:
    return dict(zip(NAMES, map(str, (files.certificate, files.key, files.authorities)), strict=True))


def inside(*, bind: str = "127.0.0.1", service: str = "agent", **given: str) -> Inside:
    env = Environment(given)
    found = Inside.read(env, service, plain_hosts=[bind])
    env.check()
    return found


def mistakes(**given: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        inside(**given)
    return refused.value.mistakes


@pytest.fixture
def authority() -> Authority:
    return Authority()


def test_names_follow_domain_and_namespace(authority: Authority, tmp_path: Path) -> None:
    found = inside(**variables(authority.issue("agent", tmp_path)))
    assert found.spiffe_id("auth") == "spiffe://ollamesh/ns/default/sa/auth"
    assert found.dns_name("auth") == "auth.default.ollamesh"
    other = authority.issue("agent", tmp_path / "other", trust_domain="example.org")
    given = {**variables(other), "OLLAMESH_TRUST_DOMAIN": "example.org"}
    assert inside(**given).spiffe_id("auth") == "spiffe://example.org/ns/default/sa/auth"


def test_nothing_starts_without_certificate_unless_somebody_says_so() -> None:
    assert [mistake.split()[0] for mistake in mistakes()] == list(NAMES)
    assert inside(OLLAMESH_INSECURE_INSIDE="true").files is None


@pytest.mark.parametrize("bind", ["0.0.0.0", "10.0.0.5", "::", "example.org"])
def test_plain_text_is_for_loopback_only(bind: str) -> None:
    assert mistakes(bind=bind, OLLAMESH_INSECURE_INSIDE="true") == (
        "OLLAMESH_INSECURE_INSIDE is for loopback addresses only",
    )
    for loopback in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"):
        assert inside(bind=loopback, OLLAMESH_INSECURE_INSIDE="true").files is None


def test_the_switch_and_certificates_contradict_each_other(authority: Authority, tmp_path: Path) -> None:
    given = variables(authority.issue("agent", tmp_path))
    assert len(mistakes(OLLAMESH_INSECURE_INSIDE="true", **given)) == 1
    del given["OLLAMESH_TLS_KEY"]
    found = mistakes(OLLAMESH_INSECURE_INSIDE="true", **given)
    assert [mistake.split()[0] for mistake in found] == ["OLLAMESH_TLS_KEY"]


def test_a_certificate_that_is_not_of_the_service_is_told(authority: Authority, tmp_path: Path) -> None:
    given = variables(authority.issue("auth", tmp_path))
    assert mistakes(**given) == ("OLLAMESH_TLS_CERT is not of spiffe://ollamesh/ns/default/sa/agent",)
    assert inside(service="auth", **given).service == "auth"


def test_files_that_cannot_be_used_are_told_without_their_contents(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue("agent", tmp_path / "one")
    other = authority.issue("agent", tmp_path / "two")
    missing = Files(certificate=files.certificate, key=tmp_path / "nothing", authorities=files.authorities)
    mixed = Files(certificate=files.certificate, key=other.key, authorities=files.authorities)
    (tmp_path / "text").write_text("hunter2")
    text = Files(certificate=tmp_path / "text", key=files.key, authorities=files.authorities)
    for wrong in (missing, mixed, text):
        (mistake,) = mistakes(**variables(wrong))
        assert mistake.startswith("OLLAMESH_TLS_CERT ")
        assert "hunter2" not in mistake


def test_new_files_are_taken_when_they_are_whole(authority: Authority, tmp_path: Path) -> None:
    now_s = 0.0
    files = authority.issue("agent", tmp_path)
    followed = Followed(files, clock=lambda: now_s)
    first = followed.latest
    authority.issue("agent", tmp_path)
    assert followed.latest is first, "it does not look at every call"
    now_s += LOOK_EVERY_S
    second = followed.latest
    assert second == read(files)
    assert second is not first
    now_s += LOOK_EVERY_S
    assert followed.latest is second, "the same files are the same material"

    data = (tmp_path / "..data").readlink()
    (tmp_path / data / "tls.key").write_bytes(Authority().pair.key)
    now_s += LOOK_EVERY_S
    assert followed.latest is second, "a key without its certificate changes nothing"
    with pytest.raises(CertificateError, match="another key"):
        read(files)
    for gone in (tmp_path / data).iterdir():
        gone.unlink()
    now_s += LOOK_EVERY_S
    assert followed.latest is second
    authority.issue("agent", tmp_path)
    now_s += LOOK_EVERY_S
    assert followed.latest == read(files)


def test_nothing_secret_is_shown(authority: Authority, tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(read(authority.issue("agent", tmp_path)))
