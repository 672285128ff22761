"""The local stack's certificates: made, renewed and replaced without a moment in which two parts do not trust each other."""

import shutil
import ssl
import stat
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as some

from deploy.local.core.authorities import Authority, Pace, roles
from deploy.local.identities import SERVICES, Identities, expiries, files_of
from services.common.certificates import Files, read

PACE = Pace(leaf_s=3600, authority_s=36_000, announced_s=60)
START_S = 1_800_000_000.0


class Stack:
    """A home whose clock the test moves."""

    def __init__(self, home: Path) -> None:
        self.home, self.now_s = home, START_S
        self.identities = Identities(
            home, PACE, trust_domain="ollamesh", namespace="default", clock=lambda: self.now_s
        )

    def held(self, service: str) -> tuple[x509.Certificate, list[x509.Certificate]]:
        material = read(files_of(self.home, service))
        authorities = x509.load_pem_x509_certificates(material.authorities)
        return x509.load_pem_x509_certificate(material.certificate), authorities


@pytest.fixture
def local(tmp_path: Path) -> Stack:
    return Stack(tmp_path)


def test_each_gets_its_own_and_only_the_owner_can_read_it(local: Stack) -> None:
    assert local.identities.renew() == list(SERVICES)
    tls = local.home / "tls"
    for path in (tls, *tls.rglob("*")):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    keys = {read(files_of(local.home, service)).key for service in SERVICES}
    assert len(keys) == len(SERVICES)
    assert local.identities.renew() == [], "what is good stays"


def test_certificates_satisfy_a_strict_verifier(local: Stack) -> None:
    local.identities.renew()
    leaf, authorities = local.held("auth")
    assert [uri.value for uri in _names(leaf)] == ["spiffe://ollamesh/ns/default/sa/auth"]
    policy = PolicyBuilder().store(Store(authorities)).time(leaf.not_valid_before_utc)
    policy.build_client_verifier().verify(leaf, [])
    name = x509.DNSName("auth.default.ollamesh")
    policy.build_server_verifier(name).verify(leaf, [])
    context = ssl.create_default_context(cafile=files_of(local.home, "auth").authorities)
    context.load_cert_chain(files_of(local.home, "auth").certificate, files_of(local.home, "auth").key)


def test_a_certificate_is_renewed_at_half_of_its_life(local: Stack) -> None:
    local.identities.renew()
    first = read(files_of(local.home, "auth"))
    local.now_s += PACE.renew_after_s - 1
    assert local.identities.renew() == []
    local.now_s += 2
    assert local.identities.renew() == list(SERVICES)
    assert read(files_of(local.home, "auth")).expires_at_s > first.expires_at_s
    assert set(expiries(local.home)) == set(SERVICES)


def test_what_is_missing_or_broken_is_made_again(local: Stack) -> None:
    local.identities.renew()
    shutil.rmtree(local.home / "tls" / "agent")
    (local.home / "tls" / "edge" / "..data" / "tls.key").write_text("half a k")
    assert "agent" not in expiries(local.home)
    assert local.identities.renew() == ["agent", "edge"]


def test_another_trust_domain_means_other_certificates(local: Stack) -> None:
    local.identities.renew()
    other = Identities(
        local.home, PACE, trust_domain="example.org", namespace="blue", clock=lambda: local.now_s
    )
    assert other.renew() == list(SERVICES)
    assert read(files_of(local.home, "auth")).uris == ("spiffe://example.org/ns/blue/sa/auth",)


def test_an_authority_is_replaced_in_steps(local: Stack) -> None:
    local.identities.renew()
    ((_, (old,))) = local.held("auth")
    local.now_s += 1
    local.identities.begin_rotation()
    assert local.identities.renew() == list(SERVICES)
    leaf, both = local.held("auth")
    assert len(both) == 2
    assert leaf.issuer == old.subject, "the new one is announced and signs nothing yet"
    local.now_s += PACE.announced_s + 1
    assert local.identities.renew() == list(SERVICES)
    leaf, both = local.held("auth")
    assert (len(both), leaf.issuer) == (2, both[1].subject)
    local.now_s += PACE.leaf_s
    assert local.identities.renew() == list(SERVICES)
    leaf, (new,) = local.held("auth")
    assert leaf.issuer == new.subject != old.subject
    assert len(list((local.home / "tls" / "authorities").iterdir())) == 1


def test_an_authority_whose_file_is_removed_is_trusted_no_more(local: Stack) -> None:
    local.identities.renew()
    (stolen,) = (local.home / "tls" / "authorities").iterdir()
    (_, (old,)) = local.held("auth")
    local.now_s += 1
    local.identities.begin_rotation()
    stolen.unlink()
    assert local.identities.renew() == list(SERVICES)
    leaf, (new,) = local.held("auth")
    assert leaf.issuer == new.subject != old.subject


def test_whoever_is_late_still_believes_the_others(local: Stack, tmp_path: Path) -> None:
    """One that reads its files `announced_s` late, or holds on to an old certificate, is never shut out."""
    local.identities.renew()
    local.now_s += 1
    local.identities.begin_rotation()
    for n, step_s in enumerate((0.0, PACE.announced_s / 2, PACE.announced_s / 2, PACE.announced_s)):
        late = Files.of(shutil.copytree(local.home / "tls" / "agent" / "..data", tmp_path / str(n)))
        local.now_s += step_s
        local.identities.renew()
        leaf, authorities = local.held("auth")
        held = read(late)
        theirs = x509.load_pem_x509_certificates(held.authorities)
        assert _is_signed(leaf, theirs), "it believes the others"
        assert _is_signed(x509.load_pem_x509_certificate(held.certificate), authorities), (
            "and they believe it"
        )


def _is_signed(leaf: x509.Certificate, authorities: list[x509.Certificate]) -> bool:
    for one in authorities:
        if one.subject == leaf.issuer:
            leaf.verify_directly_issued_by(one)  # Raises if not.
            return True
    return False


def _names(leaf: x509.Certificate) -> list[x509.UniformResourceIdentifier]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [name for name in names if isinstance(name, x509.UniformResourceIdentifier)]


@given(some.lists(some.floats(0, 100_000), min_size=1, max_size=5), some.floats(0, 150_000))
def test_roles_are_consistent_whenever_authorities_were_made(made: list[float], now_s: float) -> None:
    found = [Authority(str(n), at_s, at_s + PACE.authority_s) for n, at_s in enumerate(made)]
    found = [one for one in found if one.made_at_s <= now_s]
    now = roles(found, PACE, now_s)
    living = {one.name for one in found if one.expires_at_s > now_s}
    assert set(now.trusted) | set(now.gone) == {one.name for one in found}
    assert not set(now.trusted) & set(now.gone)
    assert set(now.trusted) <= living
    assert now.signer is None or now.signer in now.trusted
    assert now.make or now.signer is not None


@given(some.floats(0, 100_000))
def test_whoever_signed_within_a_certificates_life_is_trusted(second_s: float) -> None:
    authorities = [
        Authority("a", 0, 1e9),
        Authority("b", second_s, 1e9),
    ]
    times = [second_s + step for step in (0, 59, 60, 61, 1000, 3600, 3659, 3661, 9999)]
    signers = [(at_s, roles(authorities, PACE, at_s).signer) for at_s in times]
    for at_s, signer in signers:
        for later_s in (at_s, at_s + PACE.leaf_s - 1):
            assert signer in roles(authorities, PACE, later_s).trusted
    for (_, one), (_, other) in pairwise(signers):
        assert not (one == "b" and other == "a")
