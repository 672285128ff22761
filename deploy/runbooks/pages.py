"""Reads the runbooks: which alerts a page is for, and the commands in it.

A block of commands says in its info string what becomes of them:

    ```console run=local              run by the tests against a local stack; reads only
    ```console run=observed           needs a Prometheus (`make up OBSERVE=1`); its queries are parsed, its metrics looked up
    ```console run=cluster            kubectl or helm; verbs, kinds and names are compared with what deploy/ renders
    ```console run=cluster changes    likewise, and it changes something
    ```console run=never              changes the mesh: only looked at, as to whether such a command and its options exist
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.prometheus.files import RUNBOOKS

INDEX = "README.md"
RUNS = ("local", "observed", "cluster", "cluster changes", "never")
_BLOCK = re.compile(r"^```console(?P<info>.*)\n(?P<body>(?:.*\n)*?)```$", re.MULTILINE)
_ALERTS = re.compile(r"^Alerts: (?P<text>(?:.+\n)+)", re.MULTILINE)
_NAME = re.compile(r"`([A-Z]\w+)`")
_LINK = re.compile(r"\]\(([\w./-]+)(?:#[\w-]+)?\)")


@dataclass(frozen=True, slots=True)
class Command:
    page: str
    run: str  # One of RUNS, or what stands there instead.
    line: str


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    text: str

    @property
    def alerts(self) -> Sequence[str]:
        """Those that it says it is for."""
        found = _ALERTS.search(self.text)
        return _NAME.findall(found["text"]) if found else ()

    @property
    def commands(self) -> Iterator[Command]:
        for block in _BLOCK.finditer(self.text):
            run = block["info"].strip().removeprefix("run=")
            for line in block["body"].splitlines():
                if line.startswith("$ "):
                    yield Command(self.name, run, line.removeprefix("$ "))

    @property
    def links(self) -> Sequence[str]:
        return _LINK.findall(self.text)


def pages(folder: Path = RUNBOOKS) -> Sequence[Page]:
    """All but the index."""
    return [Page(path.stem, path.read_text()) for path in sorted(folder.glob("*.md")) if path.name != INDEX]


def index(folder: Path = RUNBOOKS) -> Page:
    return Page(INDEX, (folder / INDEX).read_text())
