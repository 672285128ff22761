"""The overlays of deploy/kustomize, built."""

from collections.abc import Mapping, Sequence
from functools import cache

import yaml

from deploy.check.charts import Document
from deploy.check.tools import ROOT, complaints, ran, tool

OVERLAYS = ROOT / "deploy/kustomize/overlays"


class BuildError(Exception):
    """What kustomize says."""


@cache
def built() -> Mapping[str, Sequence[Document]]:
    """By `kustomize NAME`. Raises BuildError."""
    found = {}
    for folder in sorted(OVERLAYS.iterdir()) if OVERLAYS.exists() else ():
        done = ran(tool("kubectl"), "kustomize", folder)
        if said := complaints(done, folder.name):
            raise BuildError(said[0])
        found[f"kustomize {folder.name}"] = [each for each in yaml.safe_load_all(done.stdout) if each]
    return found
