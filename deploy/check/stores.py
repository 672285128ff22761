"""The stores of a cluster, as deploy/helm/stores has them: examples for operators that are installed already."""

from collections.abc import Sequence

import yaml

from deploy.check.charts import Document
from deploy.check.tools import ROOT

FOLDER = ROOT / "deploy/helm/stores"


def examples() -> Sequence[Document]:
    """All of them together: they refer to each other."""
    files = sorted(FOLDER.glob("*.yaml"))
    return [found for file in files for found in yaml.safe_load_all(file.read_text()) if found]
