"""Each part's own reader of settings, given what a container would find: it takes all of it, and there is nothing that it does not read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.backup.config import Config as Backup
from deploy.backup.errors import BackupError
from deploy.check.charts import Document, rendered
from deploy.check.pods import Pods, pods_of
from deploy.check.samples import environment
from deploy.envoy.config import Edge
from deploy.migrations.config import Config as Migrations
from deploy.migrations.config import MigrationError
from services.agent.config import Config as Agent
from services.auth.config import Config as Auth
from services.common.config import ConfigError, Environment
from services.inference.config import Config as Inference
from services.sandbox.config import Config as Sandbox

READERS: Mapping[str, Callable[[Environment], object]] = {
    "auth": Auth.read,
    "agent": Agent.read,
    "inference": Inference.read,
    "sandbox": Sandbox.read,
    "edge": Edge.read,
}
JOBS: Mapping[str, Callable[[Mapping[str, str]], object]] = {
    "migrations": Migrations.from_env,
    "backup": partial(Backup.from_env, live=True),
}
# Read by what stands around the service: probes, and Envoy's keeper.
READ_ELSEWHERE = {
    "OLLAMESH_SERVICE": "services.common.healthcheck",
    "OLLAMESH_EDGE_DRAIN_S": "deploy.envoy.serve",
    "POD_INDEX": "OLLAMA_HOSTS",
}


class _Recorded(dict[str, str]):
    """Remembers what was asked of it."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(variables)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 -- as dict has it.
        self.asked.add(name)
        return super().get(name, default)


def check() -> list[str]:
    found = rendered()
    return [f"{place}: {problem}" for place, group in found.items() for problem in problems(group)]


def problems(documents: Sequence[Document]) -> list[str]:
    return [problem for pods in pods_of(documents) for problem in _of_pods(pods, documents)]


def _of_pods(pods: Pods, documents: Sequence[Document]) -> Iterator[str]:
    for container in pods.containers:
        if pods.component not in {*READERS, *JOBS}:
            continue
        with TemporaryDirectory() as made:
            variables = _Recorded(environment(pods, container, documents, Path(made)))
            mistakes = [*_mistakes(pods.component, variables)]
        for mistake in mistakes:
            yield f"{pods.name}: {container['name']}: {mistake.replace(made, '')}."
        for name in sorted(variables.keys() - variables.asked - READ_ELSEWHERE.keys()):
            yield f"{pods.name}: {container['name']} is told {name}, which nobody reads."


def _mistakes(component: str, variables: _Recorded) -> Sequence[str]:
    if component in JOBS:
        try:
            JOBS[component](variables)
        except (MigrationError, BackupError) as error:
            return [str(error)]
        return []
    env = Environment(variables)
    READERS[component](env)
    try:
        env.check()
    except ConfigError as error:
        return error.mistakes
    return []
