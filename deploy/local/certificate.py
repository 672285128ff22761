"""A certificate for the local edge, so that TLS can be tried without asking anybody.

An authority is made for it, signs it, and is forgotten: its key is never written, so nobody can sign anything else by
it. Who calls the edge trusts `ca.pem`, and that alone.
"""

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME, RENEWED_BEFORE = dt.timedelta(days=90), dt.timedelta(days=30)
BACKDATED = dt.timedelta(minutes=5)  # For clocks that are late.
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
FOLDER_MODE, KEY_MODE = 0o700, 0o600


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "edge.pem"

    @property
    def key(self) -> Path:
        return self.folder / "edge.key"


def ensure(files: CertificateFiles, hosts: Sequence[str]) -> None:
    """Have a certificate for these hosts that is good for a month at least."""
    if not _is_good(files, hosts):
        make(files, hosts)


def make(files: CertificateFiles, hosts: Sequence[str], *, usage: x509.ObjectIdentifier = SERVER) -> None:
    files.folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = _name("Ollamesh local authority")
    authority = (
        _begun(name, name, authority_key, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _begun(_name("Ollamesh edge"), name, key, authority_key)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(files.key, secret)
    _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    _write(files.ca, authority.public_bytes(serialization.Encoding.PEM))


def _is_good(files: CertificateFiles, hosts: Sequence[str]) -> bool:
    if not (files.key.exists() and files.ca.exists()):
        return False
    try:
        found = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    is_fresh = found.not_valid_after_utc - RENEWED_BEFORE > dt.datetime.now(dt.UTC)
    return is_fresh and list(named) == [_alternative(host) for host in hosts]


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFETIME)
        # Authorities of other stacks have the same name: by this a reader knows which one signed.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes) -> None:
    """By rename, so that who reads it has all of the one or all of the other."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, KEY_MODE), "wb") as file:
        file.write(content)
    unfinished.replace(path)
