"""What is in an image, and what is not to be."""

import os
from pathlib import Path

from deploy.docker.container import Container
from deploy.docker.images import Image, version
from deploy.docker.mesh import NotProved

# Installers, compilers, and what fetches more: nothing in an image has a use for them.
UNWANTED_PROGRAMS = ("pip", "pip3", "uv", "gcc", "cc", "g++", "make", "git", "curl", "wget", "ssh")
UNWANTED_MODULES = ("pip", "setuptools", "ensurepip", "pytest", "mypy", "grpc_tools")
LABELS = ("title", "description", "version", "revision", "licenses")
USER = "10001:10001"


def into(image: Image, container: Container) -> str:
    """Return what was found in a word or two. Raises NotProved."""
    settings, root = container.settings, container.root
    started = container.run("python", "-c", "print('here')")
    if started.stdout != "here\n":
        raise NotProved(f"{image.name} does not start: {started.stderr.strip()}")
    wrong = [
        *([f"runs as {settings.user}"] if settings.user != USER else []),
        *(
            f"has no label {name}"
            for name in LABELS
            if not settings.labels.get(f"org.opencontainers.image.{name}")
        ),
        *(
            [f"is of version {found}"]
            if (found := settings.environment["OLLAMESH_VERSION"]) != version()
            else []
        ),
        *(["has no HEALTHCHECK"] if not settings.healthcheck and image.service != "migrations" else []),
        *(f"has {name}" for name in UNWANTED_PROGRAMS if _found(root, name)),
        *(f"has the module {name}" for name in UNWANTED_MODULES if _imports(container, name)),
        *(f"lets {settings.user} write {path}" for path in _writable(root)),
    ]
    written = container.run("python", "-c", "open('/app/x', 'w')")
    if "Read-only file system" not in written.stderr:
        wrong.append("can write to its root")
    if image.service != "migrations":
        for module in image.modules:
            done = container.run(
                "python", "-c", f"import importlib.util; assert importlib.util.find_spec({module!r})"
            )
            wrong += [f"lacks {module}"] if done.returncode else []
    if wrong:
        raise NotProved(f"{image.name} {', '.join(wrong)}")
    return (
        f"{_bytes(root / 'app') / 1e6:.0f} MB of ours on {(_bytes(root) - _bytes(root / 'app')) / 1e6:.0f} MB"
    )


def _found(root: Path, name: str) -> bool:
    return any(
        (root / folder / name).exists() for folder in ("app/venv/bin", "usr/local/bin", "usr/bin", "bin")
    )


def _imports(container: Container, name: str) -> bool:
    return container.run("python", "-c", f"import {name}").returncode == 0


def _writable(root: Path) -> list[Path]:
    """Folders and files that the image's user might change if its root were not read-only."""
    found = (path for path in root.joinpath("app").rglob("*") if not path.is_symlink())
    return [
        path.relative_to(root) for path in found if path.stat().st_mode & 0o022 or path.stat().st_uid != 0
    ][:3]


def _bytes(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        total += sum(Path(parent, name).lstat().st_size for name in files)
    return total
