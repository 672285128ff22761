"""A certificate, its key and the authorities to trust: three files that others replace while we run.

Whoever replaces them (the local stack's supervisor, cert-manager, SPIRE's helper, a Kubernetes mount) cannot change three
files in one step for a reader that opens one after the other. So what was read counts only if nothing changed meanwhile
and the key belongs to the certificate; until then, what is known stays.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from prometheus_client import CollectorRegistry, Gauge

LOOK_EVERY_S = 1.0  # A new certificate is used so soon; looking costs three calls of stat.


class CertificateError(Exception):
    """Why the files cannot be used, as a clause about them. Holds nothing of what is in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Names as Kubernetes and cert-manager give them, in `folder`; or any three paths."""

    certificate: Path
    key: Path
    authorities: Path

    @classmethod
    def of(cls, folder: Path) -> "Files":
        return cls(certificate=folder / "tls.crt", key=folder / "tls.key", authorities=folder / "ca.crt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the files held at one moment."""

    certificate: bytes  # PEM; intermediate ones may follow it.
    key: bytes = field(repr=False)
    authorities: bytes  # PEM; two of them while the authority is being replaced.
    uris: tuple[str, ...]
    expires_at_s: float
    authority_expires_at_s: float  # Of the one that lasts longest.


def read(files: Files) -> Material:
    """Raises CertificateError."""
    try:
        before = _stamps(files)
        certificate, key = files.certificate.read_bytes(), files.key.read_bytes()
        authorities = files.authorities.read_bytes()
        if _stamps(files) != before:
            raise CertificateError("was being replaced while it was read")
    except OSError as error:
        raise CertificateError(f"cannot be read: {error.strerror}") from error
    try:
        leaf = x509.load_pem_x509_certificate(certificate)
        public = load_pem_private_key(key, password=None).public_key()
        trusted = x509.load_pem_x509_certificates(authorities)
        uris = tuple(_uris(leaf))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError("is not a PEM certificate with its key and authorities") from error
    if public != leaf.public_key():
        raise CertificateError("has another key than the one in the file of the key")
    return Material(
        certificate=certificate,
        key=key,
        authorities=authorities,
        uris=uris,
        expires_at_s=leaf.not_valid_after_utc.timestamp(),
        authority_expires_at_s=max(each.not_valid_after_utc.timestamp() for each in trusted),
    )


class Followed:
    """The newest material that was whole. `latest` is the same object until there is another."""

    def __init__(self, files: Files, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises CertificateError."""
        self._files, self._clock = files, clock
        self._stamps, self._looked_at_s = _stamps_or_none(files), clock()
        self._latest = read(files)

    @property
    def latest(self) -> Material:
        # Also called by gRPC's threads: two that look at the same time do the same work twice, and no harm.
        now_s = self._clock()
        if now_s - self._looked_at_s >= LOOK_EVERY_S:
            self._looked_at_s = now_s
            stamps = _stamps_or_none(self._files)
            if stamps != self._stamps:
                self._take(stamps)
        return self._latest

    def _take(self, stamps: object) -> None:
        try:
            self._latest = read(self._files)
        except CertificateError as error:  # The next look tries again.
            import structlog  # Here, for the command line shows when certificates expire, and should not wait.

            log = structlog.get_logger(__name__)
            log.warning("certificate_not_taken", path=str(self._files.certificate), why=str(error))
        else:
            self._stamps = stamps


def expiry_watched(registry: CollectorRegistry, files: Files | None) -> None:
    """Publish how long certificates are still good for; negative when they are not any more."""
    if files is None:
        return
    followed = Followed(files)
    left = Gauge(
        "ollamesh_certificate_expiry_seconds",
        "Until the service's own certificate expires (inside), and the last authority that it trusts",
        ("name",),
        registry=registry,
    )
    left.labels("inside").set_function(lambda: followed.latest.expires_at_s - time.time())
    left.labels("authority").set_function(lambda: followed.latest.authority_expires_at_s - time.time())


def _uris(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _stamps(files: Files) -> tuple[tuple[int, int, int], ...]:
    seen = (path.stat() for path in (files.certificate, files.key, files.authorities))
    return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in seen)


def _stamps_or_none(files: Files) -> object:
    try:
        return _stamps(files)
    except OSError:
        return None
