"""Who is measured: the stub itself, the gateway, the gateway behind the edge, and what people would use instead."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.bench.support.load import Load, Protocol
from tests.bench.support.peers import SSE_PATH, Peer, grpc_body, json_body, tree_cpu_s, tree_rss_bytes
from tests.bench.support.stack import Stack
from tests.bench.support.stub import Stub

CHAT = "/ollamesh.inference.v1.InferenceService/Chat"
PATHS: Mapping[Protocol, str] = {"ndjson": "/api/chat", "sse": SSE_PATH}
CONNECTIONS = 4  # Of HTTP/2, as a few busy callers would have.


def _no_headers() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something that answers chats over one protocol."""

    name: str
    protocol: Protocol
    port: int
    path: str
    body: Callable[[str], bytes]  # The request for a model.
    pid: int  # Of the process, with all that it started, whose cost this is.
    headers: Callable[[], Mapping[str, str]] = field(default=_no_headers)

    def load(self, model: str, **terms: object) -> Load:
        """Return a load of this target; `terms` as Load has them."""
        headers = dict(self.headers())
        bearer = headers.pop("authorization", "").removeprefix("Bearer ") or None
        return Load(
            protocol=self.protocol,
            port=self.port,
            path=self.path,
            body=self.body(model),
            headers=headers,
            bearer=bearer,
            connections=CONNECTIONS,
            **terms,  # type: ignore[arg-type]
        )

    def cpu_s(self) -> float:
        """Return the processor time that it has used so far."""
        return tree_cpu_s(self.pid)

    def rss_bytes(self) -> int:
        return tree_rss_bytes(self.pid)


def stub_target(stub: Stub, protocol: Protocol) -> Target:
    """Straight to the stub, as the baseline of those that are asked over `protocol`."""
    path = "/api/chat" if protocol == "ndjson" else SSE_PATH
    name = "direct" if protocol == "ndjson" else "direct, SSE"
    return Target(name=name, protocol=protocol, port=stub.port, path=path, body=json_body, pid=stub.pid)


def peer_target(peer: Peer) -> Target:
    return Target(
        name=peer.name.replace("_", "-"),
        protocol=peer.protocol,
        port=peer.port,
        path=peer.path,
        body=peer.body,
        pid=peer.pid,
        headers=lambda: peer.headers,
    )


class MeshTargets:
    """The ways into a stack. Its token is renewed as it grows old."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._bearer = {"authorization": f"Bearer {stack.token}"}
        inference, edge = stack.parts["inference"], stack.parts["edge"]
        self.gateway = self._target("gateway", "grpc", inference.port, inference.pid)
        self.edge = self._target("gateway, edge", "grpc", edge.port, edge.pid)
        self.web = self._target("gateway, edge, gRPC-Web", "grpc-web", edge.port, edge.pid)
        self.ollama = self._target("gateway, edge, Ollama's REST", "ndjson", edge.port, edge.pid)
        self.openai = self._target("gateway, edge, OpenAI's REST", "sse", edge.port, edge.pid)

    def renew(self) -> None:
        self._bearer = {"authorization": f"Bearer {self._stack.new_token()}"}

    def _target(self, name: str, protocol: Protocol, port: int, pid: int) -> Target:
        return Target(
            name=name,
            protocol=protocol,
            port=port,
            path=PATHS.get(protocol, CHAT),
            body=json_body if protocol in PATHS else grpc_body,
            pid=pid,
            headers=lambda: self._bearer,
        )
