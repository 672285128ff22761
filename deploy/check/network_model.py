"""Who reaches whom under a set of NetworkPolicies: what Kubernetes says they mean, as a function.

A pod that a policy selects for a direction is allowed what any such policy allows, and one that none selects, everything. A
connection needs both sides' leave. Nodes reach the pods that run on them, whatever policies say; that is how probes arrive.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from deploy.check.charts import Document, of_kind
from deploy.check.pods import Labels, namespace_of

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Pods of one kind, or an address outside of the cluster."""

    name: str
    namespace: str = ""
    labels: Labels = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)  # By name.
    address: str = ""  # Of what is no pod.

    @property
    def is_pod(self) -> bool:
        return not self.address


def reachable(source: Place, target: Place, documents: Sequence[Document]) -> frozenset[int]:
    """The target's ports that a connection from the source gets to."""
    outgoing = _allowed(source, target, target, documents, "Egress") if source.is_pod else None
    incoming = _allowed(target, source, target, documents, "Ingress") if target.is_pod else None
    return frozenset(
        port
        for port in target.ports.values()
        if (outgoing is None or port in outgoing) and (incoming is None or port in incoming)
    )


def _allowed(
    of: Place, peer: Place, target: Place, documents: Sequence[Document], direction: str
) -> frozenset[int] | None:
    """The ports of `target` for which a policy of `of` lets `peer` through; None: no policy says anything."""
    policies = [
        policy["spec"]
        for policy in of_kind(documents, "NetworkPolicy")
        if namespace_of(policy) == of.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selected(policy["spec"]["podSelector"], of.labels)
    ]
    if not policies:
        return None
    side = "to" if direction == "Egress" else "from"
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), ())]
    return frozenset(
        port
        for rule in rules
        if _meant(rule.get(side), of, peer)
        for port in _ports(rule.get("ports"), target)
    )


def _meant(peers: Sequence[Rule] | None, of: Place, peer: Place) -> bool:
    return not peers or any(_is(each, of, peer) for each in peers)


def _is(rule: Rule, of: Place, peer: Place) -> bool:
    if (
        block := rule.get("ipBlock")
    ) is not None:  # Of pods nobody knows the address; it means what is outside.
        if peer.is_pod:
            return False
        address = ip_address(peer.address)
        excepted = any(address in ip_network(cidr) for cidr in block.get("except", ()))
        return address in ip_network(block["cidr"]) and not excepted
    if not peer.is_pod:
        return False
    namespaces = rule.get("namespaceSelector")
    if namespaces is None and peer.namespace != of.namespace:
        return False
    if namespaces is not None and not _selected(namespaces, {NAMESPACE_LABEL: peer.namespace}):
        return False
    return _selected(rule.get("podSelector", {}), peer.labels)


def _ports(ports: Sequence[Rule] | None, target: Place) -> Iterator[int]:
    if not ports:
        yield from target.ports.values()
        return
    for each in ports:
        port, last = each.get("port"), each.get("endPort")
        if port is None:
            yield from target.ports.values()
        elif isinstance(port, str):
            yield from (number for name, number in target.ports.items() if name == port)
        else:
            yield from (number for number in target.ports.values() if port <= number <= (last or port))


def _selected(selector: Rule, labels: Labels) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_fits(each, labels) for each in selector.get("matchExpressions", ()))


def _fits(expression: Rule, labels: Labels) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case unknown:
            raise ValueError(f"{unknown} is no operator of a selector")
