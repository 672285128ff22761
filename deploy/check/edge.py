"""The configuration that Envoy would have in a cluster, rendered from each edge's settings, and judged by Envoy itself."""

import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.check.charts import rendered
from deploy.check.outcome import Skipped
from deploy.check.pods import pods_of
from deploy.check.samples import environment
from deploy.check.tools import complaints, ran
from deploy.local import servers
from deploy.local.errors import ServerMissingError

NAMES = {"OLLAMESH_ISSUER"}


def check() -> list[str]:
    """Raises Skipped without Envoy."""
    seen: set[frozenset[tuple[str, str]]] = set()
    found = []
    for place, documents in rendered().items():
        edges = [pods for pods in pods_of(documents) if pods.component == "edge"]
        if len(edges) != 1:
            found.append(f"{place}: there are {len(edges)} edges.")
            continue
        with TemporaryDirectory() as made:
            variables = environment(edges[0], edges[0].spec["containers"][0], documents, Path(made))
            # To render takes seconds; sets that differ in nothing but names are looked at once.
            same = frozenset(
                (name, value.replace(made, "")) for name, value in variables.items() if name not in NAMES
            )
            if same not in seen:
                seen.add(same)
                found += [f"{place}: {problem}" for problem in judged(variables, Path(made))]
    return found


def judged(variables: Mapping[str, str], folder: Path) -> list[str]:
    """What is wrong with an edge that has these settings, whose files lie below `folder`."""
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
