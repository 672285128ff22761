"""The configuration that Envoy would have in a cluster, rendered from each edge's settings, and judged by Envoy itself."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.check.charts import Document, rendered
from deploy.check.outcome import Skipped
from deploy.check.pods import pods_of
from deploy.check.samples import environment
from deploy.check.tools import complaints, ran
from deploy.local import servers
from deploy.local.errors import ServerMissingError


def check() -> list[str]:
    """Raises Skipped without Envoy."""
    seen: set[str] = set()
    found = []
    for place, documents in rendered().items():
        with TemporaryDirectory() as made:
            folder = Path(made)
            configuration, mistakes = configured(documents, folder)
            found += [f"{place}: {mistake}" for mistake in mistakes]
            # Envoy takes seconds to judge; sets that differ in nothing that it sees are judged once.
            if not mistakes and (same := _without_names(configuration, folder)) not in seen:
                seen.add(same)
                found += [f"{place}: {problem}" for problem in validated(configuration, folder)]
    return found


def configured(documents: Sequence[Document], folder: Path) -> tuple[str, list[str]]:
    """What the edge of `documents` prints, with its files below `folder`; or what is wrong with its settings."""
    edges = [pods for pods in pods_of(documents) if pods.component == "edge"]
    if not edges:
        return "", ["there is no edge."]
    (pods,) = edges
    variables = environment(pods, pods.spec["containers"][0], documents, folder)
    done = ran(sys.executable, "-m", "deploy.envoy", "--write", environment=variables)
    return done.stdout, [*complaints(done, "the edge's settings")]


def _without_names(configuration: str, folder: Path) -> str:
    return re.sub(r'"issuer": "[^"]*"', "", configuration.replace(str(folder), ""))


def validated(configuration: str, folder: Path) -> list[str]:
    try:
        envoy = servers.envoy()
    except ServerMissingError as error:
        raise Skipped("there is no Envoy for this machine") from error
    file = folder / "envoy.json"
    file.write_text(configuration)
    done = ran(envoy, "--mode", "validate", "--disable-hot-restart", "--log-level", "error", "-c", file)
    return list(complaints(done, "Envoy"))
