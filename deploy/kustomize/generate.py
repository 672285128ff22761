"""Makes base and overlays of what the chart renders, so that there is one place where a thing is said.

The base is the chart with its own values. An overlay is what another set of values changes of it: documents that come, documents
that go, and JSON patches for the rest. Whoever needs more writes an overlay of their own upon one of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deploy.check.charts import DEFAULT, NAMESPACE, Document, render, value_sets

FOLDER = Path(__file__).parent
HEAD = "# Made from the chart by `python -m deploy.kustomize`; change values or templates there.\n"
CLUSTER_WIDE = {"Namespace", "PriorityClass"}
HELMS_OWN = "helm.sh/"
WIDTH = 140

Key = tuple[str, str]
Patch = list[dict[str, Any]]


def files() -> Mapping[Path, str]:
    """What is to be in base/ and overlays/, by path."""
    sets = {name: changed(values) for name, values in value_sets().items()}
    found = {
        name: by_key(map(prepared, group))
        for name, group in zip(sets, render(list(sets.values())), strict=True)
    }
    base = found.pop(DEFAULT)
    made = dict(_base(base))
    for name, documents in found.items():
        made |= dict(_overlay(FOLDER / "overlays" / name, base, documents))
    return made


def changed(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is rendered for kustomize: the namespace besides; without rules and dashboards, which change by themselves
    and would be copies here.
    """
    monitoring = {**values.get("monitoring", {}), "rules": False, "dashboards": False}
    security = {**values.get("podSecurity", {}), "createNamespace": True}
    return {**values, "monitoring": monitoring, "podSecurity": security}


def prepared(document: Document) -> Document:
    """A document as it is without Helm: in its namespace, and without Helm's hooks."""
    metadata = {**document["metadata"]}
    if document["kind"] not in CLUSTER_WIDE:
        metadata["namespace"] = NAMESPACE
    annotations = {
        name: value
        for name, value in metadata.pop("annotations", {}).items()
        if not name.startswith(HELMS_OWN)
    }
    if annotations:
        metadata["annotations"] = annotations
    made: Document = _not_by_helm({**document, "metadata": metadata})
    return made


def by_key(documents: Iterator[Document] | Sequence[Document]) -> dict[Key, Document]:
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def patch(before: Any, after: Any, path: str = "") -> Patch:  # noqa: ANN401 -- JSON.
    """RFC 6902: what makes one of the other. Lists are replaced whole."""
    if before == after:
        return []
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [{"op": "replace", "path": path, "value": after}]
    removed: Patch = [{"op": "remove", "path": _step(path, name)} for name in before.keys() - after.keys()]
    changed: Patch = []
    for name, value in after.items():
        step = _step(path, name)
        changed += (
            patch(before[name], value, step)
            if name in before
            else [{"op": "add", "path": step, "value": value}]
        )
    return [*sorted(removed, key=lambda each: str(each["path"])), *changed]


def _base(documents: Mapping[Key, Document]) -> Iterator[tuple[Path, str]]:
    folder = FOLDER / "base"
    parts = _by_part(documents.values())
    for name, group in parts.items():
        yield folder / f"{name}.yaml", _dumped(group)
    yield folder / "kustomization.yaml", _kustomization({"resources": [f"{name}.yaml" for name in parts]})


def _overlay(
    folder: Path, base: Mapping[Key, Document], documents: Mapping[Key, Document]
) -> Iterator[tuple[Path, str]]:
    added = [document for key, document in documents.items() if key not in base]
    patches: list[dict[str, Any]] = []
    for key, document in base.items():
        target = {"kind": key[0], "name": key[1]}
        if key not in documents:
            gone = {"$patch": "delete", "apiVersion": document["apiVersion"], "kind": key[0]}
            patches.append({"target": target, "patch": _inline({**gone, "metadata": {"name": key[1]}})})
        elif steps := patch(document, documents[key]):
            patches.append({"target": target, "patch": _inline(steps)})
    parts = _by_part(added)
    for name, group in parts.items():
        yield folder / f"{name}.yaml", _dumped(group)
    resources = ["../../base", *(f"{name}.yaml" for name in parts)]
    yield folder / "kustomization.yaml", _kustomization({"resources": resources, "patches": patches})


def _by_part(documents: Iterator[Document] | Sequence[Document] | Any) -> dict[str, list[Document]]:  # noqa: ANN401
    parts: dict[str, list[Document]] = {}
    for document in documents:
        name = document["metadata"].get("labels", {}).get("app.kubernetes.io/component", "cluster")
        parts.setdefault(name, []).append(document)
    return parts


def _not_by_helm(value: Any) -> Any:  # noqa: ANN401 -- JSON.
    match value:
        case dict():
            return {
                name: "kustomize" if name == "app.kubernetes.io/managed-by" else _not_by_helm(each)
                for name, each in value.items()
            }
        case list():
            return [_not_by_helm(each) for each in value]
        case _:
            return value


def _step(path: str, name: str) -> str:
    return f"{path}/{name.replace('~', '~0').replace('/', '~1')}"


def _kustomization(content: Mapping[str, Any]) -> str:
    kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    return _dumped([{**kind, **content}])


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks; no anchors, which nobody can read."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 -- as the base has it.
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _inline(content: Any) -> str:  # noqa: ANN401 -- JSON.
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=WIDTH)


def _dumped(documents: Sequence[Mapping[str, Any]]) -> str:
    return HEAD + "---\n".join(_inline(each) for each in documents)
