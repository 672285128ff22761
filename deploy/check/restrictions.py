"""What each pod is not allowed: Pod Security's level "restricted", and what we ask beyond it. The sandbox may ask for more, by name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.check.charts import Document, of_kind, rendered
from deploy.check.pods import Pods, pods_of

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
# A jail needs user namespaces and a /proc of its own, which a container without a kernel of its own is refused: docs/kubernetes.md. In a
# namespace that admits it, the sandbox alone may have these.
SANDBOX = "sandbox"


def check() -> list[str]:
    found = rendered()
    return [f"{place}: {problem}" for place, group in found.items() for problem in problems(group)]


def problems(documents: Sequence[Document]) -> Iterator[str]:
    levels = [each["metadata"].get("labels", {}) for each in of_kind(documents, "Namespace")]
    for pods in pods_of(documents):
        yield from (f"{pods.name} {problem}." for problem in _pod(pods))
        for container in pods.containers:
            yield from (f"{pods.name}: {container['name']} {problem}." for problem in _container(container))
        yield from (f"{pods.name} {problem}." for problem in _of_jails(pods, levels))


def _pod(pods: Pods) -> Iterator[str]:
    spec, security = pods.spec, pods.spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield "may run as root"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"has {field}"
    if spec.get("automountServiceAccountToken") is not False:
        yield "gets a token for Kubernetes, which it has no use for"
    if spec.get("enableServiceLinks") is not False:
        yield "gets variables of other services, whose names may be its own"
    for volume in spec.get("volumes", ()):
        if kinds := volume.keys() - VOLUMES - {"name"}:
            yield f"has a volume of {', '.join(sorted(kinds))}"


def _container(container: Mapping[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("privileged"):
        yield "is privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security.get("capabilities", {}).get("add"):
        yield "keeps capabilities"
    image = str(container["image"])
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in {"", "latest"}:
        yield f"runs {image}, which may be another one tomorrow"


def _of_jails(pods: Pods, levels: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What only the sandbox may have, and only where the namespace says so."""
    profile = pods.spec.get("securityContext", {}).get("seccompProfile", {}).get("type")
    unmasked = any(
        each.get("securityContext", {}).get("procMount", "Default") != "Default" for each in pods.containers
    )
    if profile in {"RuntimeDefault", "Localhost"} and not unmasked:
        return
    if pods.component != SANDBOX:
        yield (
            f"has the seccomp profile {profile or 'of nobody'}" if not unmasked else "sees an unmasked /proc"
        )
    elif unmasked and pods.spec.get("hostUsers") is not False:
        yield "sees an unmasked /proc without a user namespace of its own, which Kubernetes refuses"
    elif any(each.get("pod-security.kubernetes.io/enforce") == "restricted" for each in levels):
        yield "is refused by its namespace, which is restricted"
