"""Beside a service mesh: mTLS is on, only those call who may, no stream is cut and no call repeated, and ports say what they speak."""

from collections.abc import Iterator, Sequence

from deploy.check.charts import NAMESPACE, Document, named, of_kind, rendered
from deploy.check.pods import pods_of
from services.common.peers import EDGE, PEERS

CLUSTER = "cluster.local"
OLLAMA_CALLERS = {"inference"}
NEVER_CUT = {"timeout": "0s", "retries": {"attempts": 0}}
STREAMS_MIN = 4096
IDLE_S_MIN = 3600


def check() -> list[str]:
    sets = rendered()
    found = {"istio": istio(sets["istio"]), "linkerd": linkerd(sets["linkerd"])}
    return [f"{mesh}: {problem}" for mesh, problems in found.items() for problem in problems]


def istio(documents: Sequence[Document]) -> Iterator[str]:
    modes = [each["spec"]["mtls"]["mode"] for each in of_kind(documents, "PeerAuthentication")]
    if set(modes) != {"STRICT"}:
        yield f"mTLS is {', '.join(sorted(set(modes))) or 'nobody asked for'}."
    yield from _callers(documents)
    yield from _streams(documents)
    for service in of_kind(documents, "Service"):
        speaks = {port["name"]: port.get("appProtocol") for port in service["spec"]["ports"]}
        if any(name.startswith("grpc") and protocol != "grpc" for name, protocol in speaks.items()):
            yield f"{named(service)} does not say that it speaks gRPC, so it would be balanced by connection."
    for pods in pods_of(documents):
        annotations = pods.workload["spec"].get("template", {}).get("metadata", {}).get("annotations", {})
        if pods.workload["kind"] in {"Deployment", "StatefulSet"} and (
            '"holdApplicationUntilProxyStarts": true' not in annotations.get("proxy.istio.io/config", "")
            or pods.labels.get("sidecar.istio.io/inject") != "true"
        ):
            yield f"{pods.name} may start without its sidecar."


def _callers(documents: Sequence[Document]) -> Iterator[str]:
    """As our own allow-list has it, which the mesh takes the place of."""
    wanted = {**{name: set(callers) - {name} for name, callers in PEERS.items()}, "ollama": OLLAMA_CALLERS}
    found: dict[str, set[str]] = {}
    for policy in of_kind(documents, "AuthorizationPolicy"):
        principals = [
            principal
            for rule in policy["spec"]["rules"]
            for source in rule.get("from", ())
            for principal in source["source"]["principals"]
        ]
        prefix = f"{CLUSTER}/ns/{NAMESPACE}/sa/"
        found[policy["metadata"]["name"]] = {principal.removeprefix(prefix) for principal in principals}
    for service, callers in wanted.items():
        if found.get(service) != callers:
            yield f"{service} is called by {sorted(found.get(service, ()))}, where {sorted(callers)} may."


def _streams(documents: Sequence[Document]) -> Iterator[str]:
    routes = {each["spec"]["hosts"][0]: each["spec"]["http"] for each in of_kind(documents, "VirtualService")}
    rules = {
        each["spec"]["host"]: each["spec"]["trafficPolicy"] for each in of_kind(documents, "DestinationRule")
    }
    for sidecar in of_kind(documents, "Sidecar"):
        for listener in sidecar["spec"]["egress"]:
            if "bind" not in listener:
                continue
            host = listener["hosts"][0].removeprefix("./")
            for route in routes.get(host, [{}]):
                if any(route.get(name) != value for name, value in NEVER_CUT.items()):
                    yield f"calls of {sidecar['metadata']['name']} to {host} may be cut or repeated."
            pool = rules.get(host, {}).get("connectionPool", {}).get("http", {})
            idle_s = int(pool.get("idleTimeout", "0s").removesuffix("s"))
            if pool.get("http2MaxRequests", 0) < STREAMS_MIN or idle_s < IDLE_S_MIN:
                yield f"streams to {host} are few, or end when they are silent."


def linkerd(documents: Sequence[Document]) -> Iterator[str]:
    for pods in pods_of(documents):
        if pods.workload["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        annotations = pods.workload["spec"]["template"]["metadata"]["annotations"]
        if annotations.get("linkerd.io/inject") != "enabled":
            yield f"{pods.name} has no proxy."
        skipped = set(annotations.get("config.linkerd.io/skip-inbound-ports", "").split(","))
        if pods.component in PEERS:
            spoken = {str(port) for name, port in pods.ports.items() if name.startswith("grpc")}
        else:
            spoken = {"8443"} if pods.component == EDGE else set()
        if missing := spoken - skipped:
            yield f"{pods.name}: port {', '.join(missing)} has TLS of its own, which the proxy would take for something else."
    if not of_kind(documents, "Server") or not of_kind(documents, "MeshTLSAuthentication"):
        yield "anybody in the mesh may call Ollama."
