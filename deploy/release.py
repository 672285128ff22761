"""`python -m deploy.release check TAG | notes VERSION | wheel FOLDER`: what a release is made of (docs/releasing.md).

There is one version, pyproject.toml's. Images, services, the command line and the client take it from there; the chart says it
itself, because Helm reads nothing else, and is compared.
"""

import argparse
import base64
import hashlib
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.docker.images import ROOT, version
from deploy.docker.imports import needed

CHANGELOG, CHART = ROOT / "CHANGELOG.md", ROOT / "deploy" / "helm" / "ollamesh" / "Chart.yaml"
SEMANTIC = re.compile(r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-[0-9a-z.-]+)?")
CLIENT = "ollamesh_client"
PACKED = (ROOT / "clients" / "python", ROOT / "gen" / "python")
EPOCH = (1980, 1, 1, 0, 0, 0)  # The earliest that a zip file can say: the same sources give the same bytes.


def problems(tag: str | None = None) -> Iterator[str]:
    """What does not say the same version, or, for the release of `tag`, is not ready."""
    now = version()
    if SEMANTIC.fullmatch(now) is None:
        yield f"pyproject.toml: {now} is not a semantic version."
    for name in ("version", "appVersion"):
        found = re.search(rf'(?m)^{name}: "?([^"\s]+)"?', CHART.read_text())
        if found is None or found[1] != now:
            yield f"Chart.yaml: {name} is {found[1] if found else 'missing'}, and pyproject.toml says {now}."
    if tag is not None:
        if tag != f"v{now}":
            yield f"The tag is {tag}, and pyproject.toml says {now}."
        if not notes(CHANGELOG.read_text(), now):
            yield f"CHANGELOG.md: there is no section `## {now}`, or nothing in it."


def notes(changelog: str, of: str) -> str:
    """The section of a version; empty if there is none."""
    found = re.search(rf"(?ms)^## {re.escape(of)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", changelog)
    return found[1].strip() if found else ""


def wheel(folder: Path) -> Path:
    """The Python client with its stubs, for those who install it apart from the mesh."""
    now = version()
    info = f"{CLIENT}-{now}.dist-info"
    requires = [name for name in sorted(needed(_modules())) if name != CLIENT]
    metadata = [
        "Metadata-Version: 2.4",
        "Name: ollamesh-client",
        f"Version: {now}",
        "Summary: The typed, asynchronous client of Ollamesh",
        "License-Expression: Apache-2.0",
        "Requires-Python: >=3.11",
        *(f"Requires-Dist: {name}" for name in requires),
    ]
    contents = {
        str(path.relative_to(source)): path.read_bytes() for source in PACKED for path in _sources(source)
    }
    contents[f"{info}/METADATA"] = "\n".join([*metadata, ""]).encode()
    contents[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: ollamesh\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    contents[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    records = [f"{name},{_digest(content)},{len(content)}" for name, content in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*records, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{CLIENT}-{now}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return path


def _sources(source: Path) -> Iterator[Path]:
    """Stubs of `ollamesh` and of the field rules that they import; `google` comes from its own distributions."""
    for name in ("ollamesh", "buf"):
        yield from sorted(path for path in (source / name).rglob("*.py*") if path.suffix in {".py", ".pyi"})


def _modules() -> Iterator[str]:
    for source in PACKED:
        for path in _sources(source):
            if path.suffix == ".py":
                yield ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="release")
    acts = parser.add_subparsers(dest="act", required=True)
    acts.add_parser("check").add_argument("tag")
    acts.add_parser("notes").add_argument("version")
    acts.add_parser("wheel").add_argument("folder", type=Path)
    asked = parser.parse_args(arguments)
    if asked.act == "wheel":
        print(wheel(asked.folder))
        return 0
    if asked.act == "notes":
        print(notes(CHANGELOG.read_text(), asked.version))
        return 0
    wrong = [*problems(asked.tag)]
    print("\n".join(wrong), file=sys.stderr) if wrong else print(f"version={version()}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
