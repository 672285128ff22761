"""The local stack's certificates on disk: who is who among its processes, and for how long.

    OLLAMESH_HOME/tls/authorities/NAME.pem        a certificate and its key, 0600; only the supervisor reads them
    OLLAMESH_HOME/tls/SERVICE/tls.crt|tls.key|ca.crt -> ..data/…, and ..data -> a folder of one moment

The supervisor makes them at the start and again before they expire. The three files of a service change together, by
the rename of one link, as Kubernetes does it: so whoever watches the folder (Envoy) or looks now and then (the services)
sees what belongs together.

    python -m deploy.local.identities rotate      begin to replace the authority; the running supervisor does the rest
    python -m deploy.local.identities keep        renew until ended, where there is no supervisor (deploy/compose)
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509

from deploy.local.certificates import Pair, make_authority, make_leaf
from deploy.local.core.authorities import Authority, Pace, Roles, roles
from deploy.local.settings import Settings
from services.common.certificates import CertificateError, Files, Material, read
from services.common.inside import AUTHORITIES, CERTIFICATE, INSECURE, KEY, Inside

SERVICES = ("auth", "agent", "inference", "sandbox", "edge", "operator")
FOLDER_MODE, FILE_MODE = 0o700, 0o600
LOOK_EVERY_S_MAX = 30.0
DATA = "..data"
PEM_END = b"-----END CERTIFICATE-----\n"

log = logging.getLogger(__name__)


# How long a new authority is only trusted before it signs: many times what anybody needs to read a file again.
ANNOUNCED_S = 60.0
AUTHORITY_LIVES = 365  # Of a certificate.


def files_of(home: Path, service: str) -> Files:
    return Files.of(home / "tls" / service)


def variables(settings: Settings, service: str) -> dict[str, object]:
    """How a part learns who it is."""
    if settings.insecure_inside:
        return {CERTIFICATE: "", KEY: "", AUTHORITIES: "", INSECURE: "true"}
    files = files_of(settings.home, service)
    return {
        CERTIFICATE: files.certificate,
        KEY: files.key,
        AUTHORITIES: files.authorities,
        INSECURE: "false",
    }


def identities_of(settings: Settings) -> "Identities":
    return Identities(
        settings.home,
        Pace(
            leaf_s=settings.certificate_life_s,
            authority_s=settings.certificate_life_s * AUTHORITY_LIVES,
            announced_s=min(ANNOUNCED_S, settings.certificate_life_s / 10),
        ),
        trust_domain=settings.trust_domain,
        namespace=settings.namespace,
    )


class Identities:
    """The certificates in `home`. One process at a time renews them: the supervisor, which holds the home."""

    def __init__(
        self,
        home: Path,
        pace: Pace,
        *,
        trust_domain: str,
        namespace: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._pace, self._clock = home / "tls", pace, clock
        self._trust_domain, self._namespace = trust_domain, namespace

    def renew(self) -> list[str]:
        """Make what is missing, old or of an authority that is not to sign any more. Return whose was made."""
        self._make_folders()
        found = self._found()
        now = self._roles(found)
        if now.make:
            self.begin_rotation()
            found = self._found()
            now = self._roles(found)
        for name in now.gone:
            (self._authorities / f"{name}.pem").unlink()
        assert now.signer is not None
        bundle = b"".join(found[name].certificate for name in now.trusted)
        renewed = [name for name in SERVICES if self._is_due(name, bundle, found[now.signer])]
        for name in renewed:
            self._issue(name, bundle, found[now.signer])
        return renewed

    def begin_rotation(self) -> None:
        """Make another authority. It signs when everybody had the time to learn of it."""
        self._make_folders()
        now_s = self._clock()
        name = f"{now_s:020.6f}-{secrets.token_hex(4)}"
        made = make_authority(
            name, trust_domain=self._trust_domain, now_s=now_s, life_s=self._pace.authority_s
        )
        unfinished = self._authorities / f"{name}.unfinished"
        _write(unfinished, made.certificate + made.key)
        unfinished.replace(self._authorities / f"{name}.pem")

    async def keep(self) -> None:
        """Renew until cancelled."""
        every_s = min(LOOK_EVERY_S_MAX, self._pace.leaf_s / 20)
        while True:
            try:
                if renewed := self.renew():
                    log.info("certificates renewed: %s", ", ".join(renewed))
            except (
                OSError
            ) as error:  # A full disk, perhaps: half of each certificate's life is left for that.
                log.warning("certificates_not_renewed error=%s", error)
            await asyncio.sleep(every_s)

    def _make_folders(self) -> None:
        for folder in (self._folder, self._authorities):
            folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    @property
    def _authorities(self) -> Path:
        return self._folder / "authorities"

    def _found(self) -> dict[str, Pair]:
        return {path.stem: _pair(path.read_bytes()) for path in sorted(self._authorities.glob("*.pem"))}

    def _roles(self, found: dict[str, Pair]) -> Roles:
        known = [
            Authority(name, float(name.partition("-")[0]), pair.parsed.not_valid_after_utc.timestamp())
            for name, pair in found.items()
        ]
        return roles(known, self._pace, self._clock())

    def _is_due(self, service: str, bundle: bytes, signer: Pair) -> bool:
        try:
            held = read(Files.of(self._folder / service))
        except CertificateError:
            return True
        leaf = x509.load_pem_x509_certificate(held.certificate)
        return (
            held.authorities != bundle
            or leaf.issuer != signer.parsed.subject
            or held.uris != (self._inside(service).spiffe_id(service),)
            or self._is_old(held)
        )

    def _is_old(self, held: Material) -> bool:
        left_s = held.expires_at_s - self._clock()
        # More than a whole life is left of one that was made when longer ones were wanted.
        return not self._pace.leaf_s - self._pace.renew_after_s < left_s <= self._pace.leaf_s

    def _issue(self, service: str, bundle: bytes, signer: Pair) -> None:
        made = make_leaf(signer, self._inside(service), now_s=self._clock(), life_s=self._pace.leaf_s)
        folder = self._folder / service
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        moment = folder / f"..{time.time_ns()}"
        moment.mkdir(mode=FOLDER_MODE)
        contents = {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": bundle}
        for name, content in contents.items():
            _write(moment / name, content)
        before = (folder / DATA).readlink() if (folder / DATA).is_symlink() else None
        _link(folder / DATA, moment.name)
        for name in contents:
            if not (folder / name).is_symlink():
                _link(folder / name, f"{DATA}/{name}")
        for old in _moments(folder):
            if old.name != moment.name and (before is None or old.name != before.name):
                shutil.rmtree(old, ignore_errors=True)

    def _inside(self, service: str) -> Inside:
        return Inside(service=service, files=None, trust_domain=self._trust_domain, namespace=self._namespace)


def expiries(home: Path) -> dict[str, float]:
    """When each service's certificate expires, in seconds since the epoch. Those that cannot be read are missing."""
    found: dict[str, float] = {}
    for service in SERVICES:
        with contextlib.suppress(CertificateError):
            found[service] = read(files_of(home, service)).expires_at_s
    return found


def _moments(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("..*") if path.is_dir() and not path.is_symlink())


def _pair(content: bytes) -> Pair:
    certificate, end, key = content.partition(PEM_END)
    return Pair(certificate + end, key)


def _link(path: Path, target: str) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(target)
    unfinished.replace(path)


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as file:
        file.write(content)


def main(arguments: list[str]) -> int:
    identities = identities_of(Settings.from_env())
    match arguments:
        case ["rotate"]:
            identities.begin_rotation()
        case ["keep"]:
            asyncio.run(_keep(identities))
        case _:
            sys.stderr.write(f"usage: {__doc__}")
            return 2
    return 0


async def _keep(identities: Identities) -> None:
    keeping = asyncio.create_task(identities.keep())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, keeping.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await keeping


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
