"""What one document says of another: selectors, ports, keys, accounts, volumes, targets of scaling, modules that are run."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from deploy.check import stores
from deploy.check.charts import Document, named, of_kind, rendered
from deploy.check.pods import Pods, pods_of, port_number
from deploy.check.quantities import quantity
from deploy.helm.secrets import KEYS

Rule = Callable[[Sequence[Document], Sequence[Pods]], Iterator[str]]
# Made by hand or by others, and named in docs/kubernetes.md.
EXPECTED_SECRETS = {"edge-tls": {"tls.crt", "tls.key"}}
EXPECTED_MAPS = {"stores-ca": {"ca.crt"}}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def check() -> list[str]:
    found = rendered()
    return [
        *(f"{place}: {problem}" for place, group in found.items() for problem in problems(group)),
        # Of the stores, the operators make pods that are not known here.
        *(f"stores: {problem}" for problem in _issuers(stores.examples(), [])),
    ]


def problems(documents: Sequence[Document]) -> list[str]:
    pods = pods_of(documents)
    return [problem for rule in RULES for problem in rule(documents, pods)]


def _selectors(documents: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    for each in pods:
        selector = each.workload["spec"].get("selector")
        if selector is not None and not each.selected_by(selector["matchLabels"]):
            yield f"{each.name} does not select its own pods."
    for document in of_kind(documents, "PodDisruptionBudget", "PodMonitor", "NetworkPolicy"):
        field = "podSelector" if document["kind"] == "NetworkPolicy" else "selector"
        if not any(each.selected_by(document["spec"][field].get("matchLabels")) for each in pods):
            yield f"{named(document)} selects no pods."


def _services(documents: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    for document in of_kind(documents, "Service"):
        selected = [each for each in pods if each.selected_by(document["spec"]["selector"])]
        if not selected:
            yield f"{named(document)} selects no pods."
        for port in document["spec"]["ports"]:
            for each in selected:
                target = port_number(port.get("targetPort", port["port"]), each)
                if target not in each.ports.values():
                    yield f"{named(document)}: {each.name} has no port {port.get('targetPort', port['port'])}."


def _monitored(documents: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    for document in of_kind(documents, "PodMonitor"):
        for each in pods:
            if not each.selected_by(document["spec"]["selector"]["matchLabels"]):
                continue
            for endpoint in document["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in each.ports:
                    yield f"{named(document)}: {each.name} has no port {endpoint['port']}."


def _probes(_: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    for each in pods:
        for container in each.spec["containers"]:
            declared = {port["name"] for port in container.get("ports", ())}
            for probe in PROBES:
                asked = container.get(probe, {})
                port = (asked.get("httpGet") or asked.get("tcpSocket") or {}).get("port")
                if port is not None and port not in declared:
                    yield f"{each.name}: {probe} asks port {port}, which is not declared."
                if not asked and each.workload["kind"] in {"Deployment", "StatefulSet"}:
                    yield f"{each.name}: {container['name']} has no {probe}."


def _keys(documents: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    own = {each["metadata"]["name"]: set(each["data"]) for each in of_kind(documents, "ConfigMap")}
    maps = {**EXPECTED_MAPS, **own}
    secrets = secrets_of(documents)
    for each in pods:
        for container in each.containers:
            for source in container.get("envFrom", ()):
                if (name := source["configMapRef"]["name"]) not in maps:
                    yield f"{each.name}: there is no ConfigMap {name}."
        for volume in each.spec.get("volumes", ()):
            if (secret := volume.get("secret")) is not None:
                yield from _mounted(each, "Secret", secret["secretName"], secret, secrets)
            if (config := volume.get("configMap")) is not None:
                yield from _mounted(each, "ConfigMap", config["name"], config, maps)


def _mounted(
    pods: Pods, kind: str, name: str, source: Mapping[str, Any], known: Mapping[str, set[str]]
) -> Iterator[str]:
    if name not in known:
        yield f"{pods.name}: nothing makes the {kind} {name}."
        return
    for item in source.get("items", ()):
        if item["key"] not in known[name]:
            yield f"{pods.name}: the {kind} {name} has no key {item['key']}."


def secrets_of(documents: Sequence[Document]) -> Mapping[str, set[str]]:
    """The keys of each Secret that there will be: of certificates, of a store, or made as the documentation says."""
    issued = {
        document["spec"]["secretName"]: {"tls.crt", "tls.key", "ca.crt"}
        for document in of_kind(documents, "Certificate")
    }
    fetched = {
        document["spec"]["target"]["name"]: {entry["secretKey"] for entry in document["spec"]["data"]}
        for document in of_kind(documents, "ExternalSecret")
    }
    by_hand = {f"ollamesh-{name}": set(keys) for name, keys in KEYS.items()} if not fetched else {}
    return {**EXPECTED_SECRETS, **by_hand, **issued, **fetched}


def _accounts(documents: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    accounts = {document["metadata"]["name"] for document in of_kind(documents, "ServiceAccount")}
    for each in pods:
        if each.spec["serviceAccountName"] not in accounts:
            yield f"{each.name}: there is no ServiceAccount {each.spec['serviceAccountName']}."


def _volumes(documents: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    claims = {document["metadata"]["name"] for document in of_kind(documents, "PersistentVolumeClaim")}
    for each in pods:
        templates = each.workload["spec"].get("volumeClaimTemplates", ())
        volumes = {volume["name"] for volume in (*each.spec.get("volumes", ()),)}
        volumes |= {template["metadata"]["name"] for template in templates}
        for container in each.containers:
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            if len(set(paths)) < len(paths):
                yield f"{each.name}: {container['name']} mounts two volumes at one path."
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield f"{each.name}: {container['name']} mounts {mount['name']}, which is no volume."
        for volume in each.spec.get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{each.name}: there is no PersistentVolumeClaim {claim}."


def _scaling(documents: Sequence[Document], _: Sequence[Pods]) -> Iterator[str]:
    workloads = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    for document in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject"):
        target = document["spec"]["scaleTargetRef"]
        found = workloads.get((target["kind"], target["name"]))
        if found is None:
            yield f"{named(document)}: there is no {target['kind']} {target['name']}."
        elif "replicas" in found["spec"]:
            yield f"{named(document)}: {named(found)} sets its replicas itself, so each upgrade would undo the scaling."


def _sets(documents: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    services = {document["metadata"]["name"]: document for document in of_kind(documents, "Service")}
    for each in pods:
        if each.workload["kind"] != "StatefulSet":
            continue
        service = services.get(each.workload["spec"]["serviceName"])
        if service is None:
            yield f"{each.name}: there is no Service {each.workload['spec']['serviceName']}."
        elif not each.selected_by(service["spec"]["selector"]):
            yield f"{each.name}: its Service {service['metadata']['name']} does not select its pods."


def _routes(documents: Sequence[Document], _: Sequence[Pods]) -> Iterator[str]:
    ports = {
        document["metadata"]["name"]: {port["port"] for port in document["spec"]["ports"]}
        for document in of_kind(documents, "Service")
    }
    for document in of_kind(documents, "GRPCRoute", "HTTPRoute"):
        for rule in document["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                if backend["port"] not in ports.get(backend["name"], ()):
                    yield f"{named(document)}: no Service {backend['name']} has port {backend['port']}."


def _issuers(documents: Sequence[Document], _: Sequence[Pods]) -> Iterator[str]:
    issuers = {document["metadata"]["name"] for document in of_kind(documents, "Issuer")}
    for document in of_kind(documents, "Certificate"):
        issuer = document["spec"]["issuerRef"]
        if issuer["kind"] == "Issuer" and issuer["name"] not in issuers:
            yield f"{named(document)}: there is no Issuer {issuer['name']}."
        private_key = document["spec"].get("privateKey", {})
        if document["spec"].get("isCA") and private_key.get("rotationPolicy") != "Never":
            yield f"{named(document)}: an authority with a new key is none to those who know the one before."


def _resources(_: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    for each in pods:
        for container in each.containers:
            resources = container.get("resources", {})
            where = f"{each.name}: {container['name']}"
            limits, requests = resources.get("limits", {}), resources.get("requests", {})
            for name in ("cpu", "memory"):
                if name not in limits or name not in requests:
                    yield f"{where} has no limit or no request of {name}."
            for name, text in (*limits.items(), *requests.items()):
                if quantity(text) is None:
                    yield f"{where}: {text} is no quantity of {name}."
            for name in requests.keys() & limits.keys():
                asked, most = quantity(requests[name]), quantity(limits[name])
                if asked is not None and most is not None and asked > most:
                    yield f"{where} asks for more {name} than its limit."


def _modules(_: Sequence[Document], pods: Sequence[Pods]) -> Iterator[str]:
    """`python -m` is told only modules that there are, in probes too."""
    for each in pods:
        for container in each.containers:
            commands = [container.get("command", ())]
            commands += [container.get(probe, {}).get("exec", {}).get("command", ()) for probe in PROBES]
            for command in commands:
                if list(command[:2]) == ["python", "-m"] and importlib.util.find_spec(command[2]) is None:
                    yield f"{each.name}: {container['name']} runs {command[2]}, which is no module."


RULES: tuple[Rule, ...] = (
    *(_selectors, _services, _monitored, _probes, _keys, _accounts, _volumes),
    *(_scaling, _sets, _routes, _issuers, _resources, _modules),
)
