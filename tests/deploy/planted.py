"""A rendered set of documents in which a test spoils one thing."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy.check.charts import Document, rendered
from deploy.check.outcome import Skipped

Spoil = Callable[["Chart"], None]


class Chart:
    """The documents of one set of values, to be changed at will."""

    def __init__(self, name: str = "default") -> None:
        try:
            self.documents: list[Document] = copy.deepcopy(list(rendered()[name]))
        except Skipped as reason:
            pytest.skip(str(reason))

    def __getitem__(self, name: str) -> Document:
        """`Kind/name`."""
        (found,) = [each for each in self.documents if f"{each['kind']}/{each['metadata']['name']}" == name]
        return found

    def pod(self, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = self[name]["spec"]["template"]["spec"]
        return spec

    def container(self, name: str) -> dict[str, Any]:
        first: dict[str, Any] = self.pod(name)["containers"][0]
        return first

    def settings(self, name: str) -> dict[str, str]:
        data: dict[str, str] = self[f"ConfigMap/{name}-settings"]["data"]
        return data

    def without(self, name: str) -> None:
        self.documents.remove(self[name])
