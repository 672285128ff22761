"""A container engine where none is installed: buildah from this machine's Debian packages, and a base that debootstrap makes.

The Dockerfile that is built is the real one, by an engine that others use, too; only its base is not the official image,
which needs a registry, but Debian with its own Python of the same version. It takes root, and installs nothing: buildah
runs in a mount namespace of its own, in which its files lie over the machine's.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.docker.images import DOCKERFILE, ROOT, Image, version
from tools.debian import unpack

PLACE = ROOT / ".tools" / "images"
PACKAGES = (
    "buildah",
    "debootstrap",
    "golang-github-containers-common",
    "golang-github-containers-image",
    "libassuan0",
    "libdevmapper1.02.1",
    "libgpgme11",
    "libostree-1-1",
    "libseccomp2",
)
RELEASE = "bookworm"
BASE = "localhost/ollamesh-base"
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
INSIDE = "OLLAMESH_IMAGES_NAMESPACE"
TRUST_ALL = {"default": [{"type": "insecureAcceptAnything"}]}  # Nothing is pulled.


class EngineError(Exception):
    """What an engine said when it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an image says about how it is run."""

    user: str
    environment: Mapping[str, str]
    command: Sequence[str]
    healthcheck: Sequence[str] = field(default=())
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""


def enter(module: str) -> None:
    """Start `python -m module` anew with the engine's files over the machine's, unless that has been done."""
    if os.environ.get(INSIDE):
        return
    files = PLACE / "debian"
    if not (files / "usr/bin/buildah").exists():
        unpack(PACKAGES, files)
    lay = " && ".join(
        f"mount -t overlay {name} -o lowerdir={files}/{name}:/{name} /{name}" for name in ("usr", "etc")
    )
    script = f'{lay} && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-euc", script, "sh", sys.executable, "-m", module, *sys.argv[1:]]
    os.execvpe(argv[0], argv, {**os.environ, INSIDE: "1"})  # noqa: S606 - ourselves.


class Engine:
    def __init__(self, place: Path = PLACE) -> None:
        self._place = place
        self._policy = place / "policy.json"
        place.mkdir(parents=True, exist_ok=True)
        self._policy.write_text(json.dumps(TRUST_ALL))

    def make_base(self) -> None:
        """Debian, as small as it gets, with its own Python."""
        if BASE in self._buildah("images", "--format", "{{.Name}}").split():
            return
        root = self._place / "base"
        shutil.rmtree(root, ignore_errors=True)
        include = "--include=ca-certificates,python3,python3-venv,tzdata"
        _run("debootstrap", "--variant=minbase", include, RELEASE, str(root))
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / folder)
        container = self._buildah("from", "scratch").strip()
        try:
            self._buildah("add", container, str(root), "/")
            self._buildah("config", "--env", f"PATH={BASE_PATH}", container)
            self._buildah("commit", "--signature-policy", str(self._policy), container, BASE)
        finally:
            self._buildah("rm", container)
        shutil.rmtree(root)

    def build(self, image: Image, *, anew: bool = False, tag: str = "") -> str:
        """Return the digest of what was built."""
        secrets = ["--secret", f"id=ca,src={AUTHORITIES}"] if AUTHORITIES.exists() else []
        arguments = {"PYTHON_IMAGE": BASE, "SERVICE": image.service, "VERSION": version()}
        self._buildah(
            *("bud", "--isolation", "chroot", "--format", "docker", "--timestamp", "0"),
            *(
                "--signature-policy",
                str(self._policy),
                "--layers",
                *(["--no-cache"] if anew else []),
                *secrets,
            ),
            *(part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")),
            *(
                "--target",
                image.target,
                "--tag",
                tag or f"localhost/{image.name}",
                "--file",
                str(DOCKERFILE),
                str(ROOT),
            ),
        )
        return self._buildah("images", "--format", "{{.Digest}}", tag or f"localhost/{image.name}").strip()

    def settings(self, image: Image) -> Settings:
        found = json.loads(self._buildah("inspect", "--type", "image", f"localhost/{image.name}"))["Docker"][
            "config"
        ]
        test = (found.get("Healthcheck") or {}).get("Test") or []
        return Settings(
            user=found["User"],
            environment=dict(one.split("=", 1) for one in found["Env"]),
            command=found["Entrypoint"] or (),
            healthcheck=test[1:] if test[:1] == ["CMD"] else (),
            labels=found["Labels"],
            stop_signal=found.get("StopSignal", ""),
        )

    @contextmanager
    def mounted(self, image: Image) -> Iterator[Path]:
        """The image's files, at a place that every user reaches."""
        container = self._buildah("from", "--pull-never", f"localhost/{image.name}").strip()
        where = Path("/run") / f"ollamesh-image-{image.service}"
        try:
            root = self._buildah("mount", container).strip()
            where.mkdir(exist_ok=True)
            _run("mount", "--bind", root, str(where))
            try:
                yield where
            finally:
                _run("umount", str(where))
                where.rmdir()
        finally:
            self._buildah("rm", container)

    def _buildah(self, command: str, *arguments: str) -> str:
        store = (
            "--storage-driver",
            "overlay",
            "--root",
            f"{self._place}/store",
            "--runroot",
            f"{self._place}/run",
        )
        return _run("buildah", *store, command, *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise EngineError(f"{' '.join(command[:1])} ended with status {done.returncode}:\n{said}")
    return done.stdout
