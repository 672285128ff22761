"""One version everywhere, and workflows that do what they say: schema, zizmor, actions pinned by commit, least rights."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from deploy import release
from deploy.check.tools import ROOT, complaints, ran, tool
from deploy.docker.images import IMAGES

WORKFLOWS = ROOT / ".github" / "workflows"
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
USES = re.compile(r"(?m)^\s*-?\s*uses:\s*(\S+)(\s+#\s*v\S+)?")
TARGET = re.compile(r"make ((?:[a-z][a-z-]*(?: |$))+)")


def check() -> list[str]:
    checker, zizmor = tool("check-jsonschema"), tool("zizmor")
    files = sorted(WORKFLOWS.glob("*.yml"))
    told = [*release.problems()]
    told += complaints(ran(checker, "--builtin-schema", "vendor.github-workflows", *files), "workflows")
    told += complaints(
        ran(checker, "--builtin-schema", "vendor.dependabot", WORKFLOWS.parent / "dependabot.yml"),
        "dependabot.yml",
    )
    told += complaints(
        ran(zizmor, "--offline", "--quiet", "--persona", "pedantic", WORKFLOWS.parent), "zizmor"
    )
    for file in files:
        told += problems(file.name, file.read_text())
    return told


def problems(name: str, text: str) -> Iterator[str]:
    """What schema and zizmor do not know of us."""
    for action, tag in USES.findall(text):
        if PINNED.fullmatch(action) is None or not tag:
            yield f"{name}: {action} is not pinned by its commit, with its version beside it."
    found: Mapping[str, Any] = yaml.safe_load(text)
    if found.get("permissions") != {}:
        yield f"{name}: jobs have rights that they do not name."
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))
    for job, what in found["jobs"].items():
        if "timeout-minutes" not in what:
            yield f"{name}: {job} may run for ever."
        built = {
            (one["image"], one["target"])
            for one in what.get("strategy", {}).get("matrix", {}).get("include", ())
        }
        if built and built != {(image.service, image.target) for image in IMAGES}:
            yield f"{name}: {job} does not build exactly the images that there are."
        for step in what["steps"]:
            for line in TARGET.findall(step.get("run", "")):
                yield from (f"{name}: there is no make {one}." for one in line.split() if one not in targets)
