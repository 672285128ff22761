"""deploy/kustomize is what the chart makes of it, and each overlay builds to what Helm renders from the values of that name."""

from collections.abc import Mapping

import yaml

from deploy.check.charts import Document, render, value_sets
from deploy.check.tools import ROOT, complaints, ran, tool
from deploy.kustomize.generate import FOLDER, by_key, changed, files, prepared

OVERLAYS = FOLDER / "overlays"
MEND = "run `python -m deploy.kustomize`"


def check() -> list[str]:
    return stale() or [problem for name in value_sets() for problem in differs(name)]


def stale() -> list[str]:
    """What is there and should not be, or the other way round."""
    wanted = files()
    there = {path for name in ("base", "overlays") for path in (FOLDER / name).rglob("*.yaml")}
    return [
        *(
            f"{_named(path)} is not what the chart makes: {MEND}."
            for path, text in wanted.items()
            if path not in there or path.read_text() != text
        ),
        *(f"{_named(path)} is of no chart: {MEND}." for path in there - wanted.keys()),
    ]


def differs(name: str) -> list[str]:
    """Where an overlay and Helm do not agree."""
    folder = OVERLAYS / name if (OVERLAYS / name).exists() else FOLDER / "base"
    done = ran(tool("kubectl"), "kustomize", folder)
    if problems := complaints(done, name):
        return list(problems)
    built = by_key([each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each])
    wanted = by_key([prepared(each) for each in render([changed(value_sets()[name])])[0]])
    keys = built.keys() | wanted.keys()
    return [
        f"{name}: {kind}/{of} is not as Helm renders it."
        for kind, of in sorted(keys)
        if _at(built, kind, of) != _at(wanted, kind, of)
    ]


def _at(documents: Mapping[tuple[str, str], Document], kind: str, name: str) -> Document | None:
    return documents.get((kind, name))


def _named(path: object) -> str:
    return str(path).removeprefix(f"{ROOT}/")
