"""Every document that is rendered, by the schemas of two versions of Kubernetes and of other projects' kinds; unknown fields and kinds fail."""

import json
from collections.abc import Mapping
from pathlib import Path

from deploy.check import stores
from deploy.check.charts import Document, named, rendered
from deploy.check.tools import ran, tool

CRDS = Path(__file__).parent / "crds"
PROGRAM = Path(__file__).parent / "programs/validate.py"
VERSIONS = ("1.32", "1.37")  # The oldest that the chart takes, and the newest that there is.


def check() -> list[str]:
    found = {**rendered(), "stores": stores.examples()}
    documents = {
        f"{place}: {named(document)}": document for place, group in found.items() for document in group
    }
    return problems(documents)


def problems(documents: Mapping[str, Document]) -> list[str]:
    """Of each document, called by the name it is given here."""
    done = ran(tool("python"), PROGRAM, CRDS, *VERSIONS, stdin=json.dumps(documents))
    if done.returncode != 0:
        return [f"The validator failed: {line}" for line in done.stderr.strip().splitlines()[-1:]]
    found: list[str] = json.loads(done.stdout)
    return found
