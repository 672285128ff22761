"""Judge documents by Kubernetes' own schemas and by those of other projects' kinds, strictly: what is unknown is wrong.

`validate.py CRDS VERSION... < {name: document}` prints a list of sentences.
"""

import json
import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

kubernetes_validate: Any = import_module("kubernetes_validate")  # Not there for those who check types.
jsonschema: Any = import_module("jsonschema")


class Failed(Protocol):
    """An error of jsonschema's."""

    absolute_path: Iterable[object]


def main() -> None:
    crds, *versions = sys.argv[1:]
    # Its definitions are megabytes, and it reads them for each document.
    utils = kubernetes_validate.utils
    utils.schema_contents = cache(utils.schema_contents)
    documents = json.load(sys.stdin)
    json.dump(
        [
            f"{name}: {problem}"
            for name, document in documents.items()
            for problem in _problems(document, Path(crds), versions)
        ],
        sys.stdout,
    )


def _problems(document: dict[str, Any], crds: Path, versions: list[str]) -> list[str]:
    group, _, version = document["apiVersion"].rpartition("/")
    custom = crds / f"{group}_{document['kind'].lower()}_{version}.json"
    if custom.exists():
        return _custom(document, custom)
    return [problem for wanted in versions for problem in _builtin(document, wanted)]


def _builtin(document: dict[str, Any], version: str) -> list[str]:
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{_where(error)}{error.message} (Kubernetes {version})."]
    except kubernetes_validate.SchemaNotFoundError:
        return [
            f"{document['apiVersion']} {document['kind']} is no kind of Kubernetes {version}, nor of deploy/check/crds."
        ]
    return []


def _custom(document: dict[str, Any], schema: Path) -> list[str]:
    errors = jsonschema.Draft202012Validator(_schema(schema)).iter_errors(document)
    return [f"{_where(error)}{error.message}." for error in errors]


@cache
def _schema(path: Path) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


def _where(error: Failed) -> str:
    path = ".".join(map(str, error.absolute_path))
    return f"{path}: " if path else ""


if __name__ == "__main__":
    main()
