"""The local edge's certificate: whom it names, who signed it, when it is made anew."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from deploy.local import certificate
from deploy.local.certificate import CertificateFiles

HOSTS = ("localhost", "127.0.0.1", "::1")


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    found = CertificateFiles(tmp_path / "tls")
    certificate.ensure(found, HOSTS)
    return found


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_it_names_its_hosts_and_can_do_nothing_else(files: CertificateFiles) -> None:
    ca, edge = read(files.ca), read(files.certificate)
    edge.verify_directly_issued_by(ca)
    names = edge.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert not edge.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = edge.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_the_authority_is_forgotten_and_the_key_is_its_owners(files: CertificateFiles) -> None:
    assert {path.name for path in files.folder.iterdir()} == {"ca.pem", "edge.pem", "edge.key"}
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert files.key.stat().st_mode & 0o777 == 0o600


def test_one_that_is_good_is_kept(files: CertificateFiles) -> None:
    before = files.certificate.read_bytes()
    certificate.ensure(files, HOSTS)
    assert files.certificate.read_bytes() == before


@pytest.mark.parametrize("trouble", ["other hosts", "old", "no key", "broken"])
def test_one_that_is_not_is_made_anew(
    files: CertificateFiles, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: tuple[str, ...] = HOSTS
    match trouble:
        case "other hosts":
            hosts = (*HOSTS, "10.0.0.7")
        case "old":
            monkeypatch.setattr(certificate, "RENEWED_BEFORE", certificate.LIFETIME + dt.timedelta(days=1))
        case "no key":
            files.key.unlink()
        case _:
            files.certificate.write_text("nonsense")
    serial = None if trouble == "broken" else read(files.certificate).serial_number
    certificate.ensure(files, hosts)
    assert read(files.certificate).serial_number != serial
    read(files.certificate).verify_directly_issued_by(read(files.ca))
