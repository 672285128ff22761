"""How a process of the mesh proves to the others which service it is: read once, by every service and the edge.

Inside, everybody shows a certificate that names a service by its SPIFFE ID (a URI), in both directions. Plain text is
for development on one machine, and somebody has to say so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from services.common.certificates import CertificateError, Files, read
from services.common.config import Environment

TRUST_DOMAIN, NAMESPACE = "ollamesh", "default"
CERTIFICATE, KEY, AUTHORITIES = "OLLAMESH_TLS_CERT", "OLLAMESH_TLS_KEY", "OLLAMESH_TLS_CA"
INSECURE = "OLLAMESH_INSECURE_INSIDE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    service: str  # Who this process is.
    files: Files | None  # None for plain text.
    trust_domain: str = TRUST_DOMAIN
    namespace: str = NAMESPACE

    @classmethod
    def read(cls, env: Environment, service: str, *, plain_hosts: Iterable[str], look: bool = True) -> Self:
        """`plain_hosts` are where text would be plain. `look` for the files; not if they are another machine's."""
        paths = [env.optional(name) for name in (CERTIFICATE, KEY, AUTHORITIES)]
        found = cls(
            service=service,
            files=_files(paths),
            trust_domain=env.text("OLLAMESH_TRUST_DOMAIN", TRUST_DOMAIN),
            namespace=env.text("OLLAMESH_NAMESPACE", NAMESPACE),
        )
        insecure = env.flag(INSECURE, default=False)
        if found.files is None:
            _check_plain(env, paths, plain_hosts, insecure=insecure)
        elif insecure:
            env.reject(INSECURE, f"contradicts {CERTIFICATE}: unset one of them")
        elif look:
            _check_files(env, found.files, found.spiffe_id(service))
        return found

    @classmethod
    def plain(cls, service: str) -> Self:
        """For development and tests."""
        return cls(service=service, files=None)

    @property
    def prefix(self) -> str:
        """What the SPIFFE IDs of the services of this mesh begin with."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/"

    def spiffe_id(self, service: str) -> str:
        return f"{self.prefix}{service}"

    def dns_name(self, service: str) -> str:
        """The same identity as a DNS name, for clients whose TLS library compares only those."""
        return f"{service}.{self.namespace}.{self.trust_domain}"


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _files(paths: list[str | None]) -> Files | None:
    certificate, key, authorities = paths
    if certificate is None or key is None or authorities is None:
        return None
    return Files(certificate=Path(certificate), key=Path(key), authorities=Path(authorities))


def _check_plain(env: Environment, paths: list[str | None], hosts: Iterable[str], *, insecure: bool) -> None:
    names = zip((CERTIFICATE, KEY, AUTHORITIES), paths, strict=True)
    missing = [name for name, path in names if path is None]
    if not insecure or len(missing) < len(paths):
        for name in missing:
            env.reject(name, f"is not set (for development on one machine, {INSECURE}=true does without)")
    elif not all(map(is_loopback, hosts)):
        env.reject(INSECURE, "is for loopback addresses only")


def _check_files(env: Environment, files: Files, spiffe_id: str) -> None:
    try:
        material = read(files)
    except CertificateError as error:
        env.reject(CERTIFICATE, str(error))
        return
    if spiffe_id not in material.uris:
        env.reject(CERTIFICATE, f"is not of {spiffe_id}")
