"""What runs: the pods that a set of documents would make, and which labels select them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.check.charts import NAMESPACE, Document, named

WORKLOADS = ("Deployment", "StatefulSet", "Job", "CronJob")
INDEX = "apps.kubernetes.io/pod-index"
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pods:
    """Those of one workload."""

    workload: Document
    labels: Labels
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        return named(self.workload)

    @property
    def namespace(self) -> str:
        return namespace_of(self.workload)

    @property
    def component(self) -> str:
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def containers(self) -> Sequence[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def selected_by(self, selector: Labels | None) -> bool:
        """Whether at least one of them is. Kubernetes numbers the pods of a StatefulSet by a label of its own."""
        wanted = dict(selector or {})
        index = wanted.pop(INDEX, None)
        replicas = self.workload["spec"].get("replicas", 1)
        return selects(wanted, self.labels) and (index is None or int(index) < replicas)

    @property
    def ports(self) -> Mapping[str, int]:
        """By name."""
        return {
            port["name"]: port["containerPort"]
            for container in self.spec["containers"]
            for port in container.get("ports", ())
        }


def namespace_of(document: Document) -> str:
    return str(document["metadata"].get("namespace", NAMESPACE))


def pods_of(documents: Sequence[Document]) -> list[Pods]:
    return list(_pods(documents))


def _pods(documents: Sequence[Document]) -> Iterator[Pods]:
    for document in documents:
        if document["kind"] not in WORKLOADS:
            continue
        spec = document["spec"]
        template = (spec["jobTemplate"]["spec"] if document["kind"] == "CronJob" else spec)["template"]
        yield Pods(document, template["metadata"].get("labels", {}), template["spec"])


def selects(selector: Labels | None, labels: Labels) -> bool:
    """Whether `matchLabels`, or a Service's selector, takes these labels; nothing takes everything."""
    return all(labels.get(key) == value for key, value in (selector or {}).items())


def port_number(port: int | str, pods: Pods) -> int | None:
    """The number of a port that is given by name or by number; None if the pods have none of that name."""
    return port if isinstance(port, int) else pods.ports.get(port)
