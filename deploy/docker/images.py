"""The images of Ollamesh: what is built from the Dockerfile, and by which arguments."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = Path(__file__).with_name("Dockerfile")
REQUIREMENTS = Path(__file__).with_name("requirements")
PREFIX = "ollamesh"


@dataclass(frozen=True, slots=True)
class Image:
    service: str
    """Also its name, after `ollamesh/`."""
    target: str
    modules: tuple[str, ...]
    """What runs in it."""

    @property
    def name(self) -> str:
        return f"{PREFIX}/{self.service}"

    @property
    def lock(self) -> Path:
        return REQUIREMENTS / f"{self.service}.lock"


HEALTHCHECK = "services.common.healthcheck"
IMAGES = (
    Image("auth", "service", ("services.auth.__main__", HEALTHCHECK)),
    Image("agent", "service", ("services.agent.__main__", HEALTHCHECK)),
    Image("inference", "service", ("services.inference.__main__", HEALTHCHECK)),
    Image(
        "sandbox", "sandbox", ("services.sandbox.__main__", "services.sandbox.rootfs.__main__", HEALTHCHECK)
    ),
    Image("edge", "edge", ("deploy.envoy.__main__", "deploy.envoy.serve", "deploy.envoy.endpoints")),
    Image(
        "migrations",
        "migrations",
        ("deploy.migrations.__main__", "deploy.backup.__main__", "deploy.local.identities"),
    ),
)


def version() -> str:
    """The one version that there is: pyproject.toml's."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found
