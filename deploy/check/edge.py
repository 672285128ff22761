"""The configuration that Envoy would have in a cluster, rendered from each edge's settings, and judged by Envoy itself."""

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
    found = rendered()
    return [f"{place}: {problem}" for place, group in found.items() for problem in problems(group)]


def problems(documents: Sequence[Document]) -> list[str]:
    """Raises Skipped without Envoy."""
    edges = [pods for pods in pods_of(documents) if pods.component == "edge"]
    if not edges:
        return ["there is no edge."]
    (pods,) = edges
    with TemporaryDirectory() as made:
        folder = Path(made)
        variables = environment(pods, pods.spec["containers"][0], documents, folder)
        done = ran(sys.executable, "-m", "deploy.envoy", "--write", environment=variables)
        return [*complaints(done, "the edge's settings")] or validated(done.stdout, folder)


def validated(configuration: str, folder: Path) -> list[str]:
    try:
        envoy = servers.envoy()
    except ServerMissingError as error:
        raise Skipped("there is no Envoy for this machine") from error
    file = folder / "envoy.json"
    file.write_text(configuration)
    done = ran(envoy, "--mode", "validate", "--disable-hot-restart", "--log-level", "error", "-c", file)
    return list(complaints(done, "Envoy"))
