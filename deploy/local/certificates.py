"""Makes the certificates of the local stack: X.509 by `cryptography`, ECDSA on P-256, everything as PEM.

A service's name stands in its certificate as a SPIFFE ID (one URI, as the SPIFFE standard wants it) and as DNS names,
for TLS libraries that compare only those.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.common.inside import Inside

# Clocks differ between machines and containers, and a suspended one is late for a moment.
BACKDATED = timedelta(minutes=5)
_LEAF_USAGE, _AUTHORITY_USAGE = {"digital_signature"}, {"key_cert_sign", "crl_sign"}
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True, slots=True)
class Pair:
    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)


def make_authority(name: str, *, trust_domain: str, now_s: float, life_s: float) -> Pair:
    """`name` tells two authorities apart: verifiers look up a signer by it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ollamesh local stack"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    spiffe = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")])
    builder = (
        _begun(key, subject=subject, issuer=subject, now_s=now_s, life_s=life_s)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(_AUTHORITY_USAGE), critical=True)
        .add_extension(spiffe, critical=False)
    )
    return _signed(builder, key, by=key)


def make_leaf(authority: Pair, inside: Inside, *, now_s: float, life_s: float) -> Pair:
    """A certificate for `inside.service`, as a server and as a client."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.parsed
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(inside.spiffe_id(inside.service)),
            x509.DNSName(inside.dns_name(inside.service)),
            x509.DNSName(f"{inside.service}.{inside.trust_domain}"),
            x509.DNSName(inside.service),
        ]
    )
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _begun(key, subject=x509.Name([]), issuer=issuer.subject, now_s=now_s, life_s=life_s)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(_LEAF_USAGE), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(names, critical=True)  # As there is no subject.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    signer = load_pem_private_key(authority.key, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    return _signed(builder, key, by=signer)


def _begun(
    key: ec.EllipticCurvePrivateKey, *, subject: x509.Name, issuer: x509.Name, now_s: float, life_s: float
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_s, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(seconds=life_s)) - BACKDATED)
        .not_valid_after(now + timedelta(seconds=life_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, *, by: ec.EllipticCurvePrivateKey
) -> Pair:
    return Pair(
        builder.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _usage(wanted: set[str]) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in wanted for name in _USAGES})
