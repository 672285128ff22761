"""Who may call whom inside the mesh: one row for each service, in one table. What has no row is refused.

This comes before the user's token and does not replace it: the sandbox believes the agent that it is the agent, and
still asks whose work it does.
"""

EDGE, OPERATOR = "edge", "operator"
PEERS: dict[str, frozenset[str]] = {
    "auth": frozenset({EDGE, "auth", "agent", "inference", "sandbox"}),
    "agent": frozenset({EDGE}),
    "inference": frozenset({EDGE, "agent"}),
    "sandbox": frozenset({EDGE, "agent"}),
}
# Probes and people who look after the mesh: gRPC's own services (health, reflection), and nothing of ours. So may the
# service itself, by whose certificate the probe in its own container asks (healthcheck.py).
OPERATORS_PREFIX = "/grpc."


def may_call(service: str, peer: str, method: str) -> bool:
    if peer in {OPERATOR, service} and method.startswith(OPERATORS_PREFIX):
        return service in PEERS
    return peer in PEERS.get(service, frozenset())
