"""A certificate authority for tests, and folders of certificates as a service finds them.

authority = Authority()
files = authority.issue("auth", tmp_path / "auth")      # again, to replace them as Kubernetes does
inside = Inside(service="auth", files=files)
"""

import secrets
import time
from pathlib import Path

from deploy.local.certificates import make_authority, make_leaf
from services.common.certificates import Files
from services.common.inside import Inside

DAY_S = 86_400.0


class Authority:
    def __init__(self) -> None:
        self.pair = make_authority(
            f"test-{secrets.token_hex(4)}", trust_domain="ollamesh", now_s=time.time(), life_s=DAY_S
        )

    def issue(
        self,
        service: str,
        folder: Path,
        *,
        life_s: float = DAY_S,
        trusts: "tuple[Authority, ...]" = (),
        trust_domain: str = "ollamesh",
    ) -> Files:
        """Put a certificate into `folder`, in one step. It trusts this authority, or those of `trusts`."""
        inside = Inside(service=service, files=None, trust_domain=trust_domain)
        leaf = make_leaf(self.pair, inside, now_s=time.time(), life_s=life_s)
        bundle = b"".join(one.pair.certificate for one in trusts or (self,))
        moment = folder / f"..{time.time_ns()}"
        moment.mkdir(parents=True)
        for name, content in {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": bundle}.items():
            (moment / name).write_bytes(content)
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        unfinished = folder / "..data.unfinished"
        unfinished.symlink_to(moment.name)
        unfinished.replace(folder / "..data")
        return Files.of(folder)

    def inside(self, service: str, folder: Path, **how: object) -> Inside:
        """Who `service` is, with a certificate of its own in `folder`."""
        return Inside(service=service, files=self.issue(service, folder / service, **how))  # type: ignore[arg-type]
