"""What lies between a token's leaving Ollama and its reaching a reader, side by side with what people would use instead.

A stub Ollama that costs nothing, a whole stack with everything on, the same gateway behind the edge, grpc.aio by itself,
and, after `make bench-peers`, LiteLLM and vllm-router. All stay up all the time and are measured in turns. Prints a
table, writes `dataplane.json` and plots beside it. ROUNDS says how many rounds; STEPS which parts (all by default).
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from tests.bench.plane import costs, figures, ladder, memory, paced, plots, relay
from tests.bench.plane.target import MeshTargets, Target, peer_target, stub_target
from tests.bench.support.peers import Peer, bare_aio, installed, litellm, vllm_router
from tests.bench.support.report import Figure, report
from tests.bench.support.stack import stack
from tests.bench.support.stub import Stub, stub

Start = Callable[[str, Sequence[str]], AbstractContextManager[Peer]]

ROUNDS = int(os.environ.get("ROUNDS", "5"))
STEPS = os.environ.get("STEPS", "memory paced relay ladder costs").split()
MODELS = (paced.MODEL, relay.MODEL, relay.SHORT_MODEL, ladder.MODEL, memory.MODEL, memory.WARM_UP_MODEL)
SLOTS = 1024
IDLE_STREAMS, IDLE_STREAMS_LITELLM = 1000, 100
# Where each begins to climb, well below where it is expected to fall.
FIRST_RUNGS = {"direct": 400, "gateway": 100, "gateway, edge": 80, "litellm": 4, "vllm-router": 200}


@dataclass(frozen=True, slots=True, kw_only=True)
class Everybody:
    """Who is measured, and the processes behind them."""

    stub: Stub
    mesh: MeshTargets
    direct: Target
    direct_sse: Target
    bare: Target
    peers: Sequence[Target]

    @property
    def paced(self) -> list[Target]:
        return [self.direct, self.mesh.gateway, self.mesh.edge, self.mesh.web, self.direct_sse, *self.peers]

    @property
    def relayed(self) -> list[tuple[Target, str]]:
        short = {"litellm"}
        fast = [self.direct, self.mesh.gateway, self.mesh.edge]
        return [
            *((target, relay.MODEL) for target in fast),
            (self.bare, relay.MODEL),
            *((peer, relay.SHORT_MODEL if peer.name in short else relay.MODEL) for peer in self.peers),
        ]

    @property
    def climbing(self) -> list[tuple[Target, int]]:
        some = [self.direct, self.mesh.gateway, self.mesh.edge, *self.peers]
        return [(target, FIRST_RUNGS[target.name]) for target in some]


@contextmanager
def everybody() -> Iterator[Everybody]:
    with ExitStack() as running:
        upstream = running.enter_context(stub(*MODELS))
        mesh = running.enter_context(stack(OLLAMA_HOSTS=upstream.url, OLLAMESH_INSTANCE_SLOTS=str(SLOTS)))
        bare = running.enter_context(bare_aio())
        peers = []
        # Of LiteLLM's ways to an OpenAI-like server, the one without OpenAI's library takes the least time.
        starts: dict[str, Start] = {
            "litellm": partial(litellm, provider="hosted_vllm"),
            "vllm_router": vllm_router,
        }
        for name, start in starts.items():
            if installed(name):
                peers.append(peer_target(running.enter_context(start(upstream.url, MODELS))))
        yield Everybody(
            stub=upstream,
            mesh=MeshTargets(mesh),
            direct=stub_target(upstream, "ndjson"),
            direct_sse=stub_target(upstream, "sse"),
            bare=peer_target(bare),
            peers=peers,
        )


def measure(
    all_: Everybody, *, rounds: int = ROUNDS, steps: Sequence[str] = STEPS
) -> tuple[list[Figure], list[str]]:
    """Return figures and remarks; draws the plots."""
    found: list[Figure] = []
    remarks = [f"Limit of {all_.stub.limit}."]
    if "memory" in steps:
        weights = {"gateway": asyncio.run(memory.weigh(all_.mesh.gateway, streams=IDLE_STREAMS))}
        for peer in all_.peers:
            streams = IDLE_STREAMS_LITELLM if peer.name == "litellm" else IDLE_STREAMS
            weights[peer.name] = asyncio.run(memory.weigh(peer, streams=streams))
        found += figures.memory(weights)
    if "paced" in steps:
        pace = paced.measure(all_.paced, rounds=rounds, begin=all_.mesh.renew)
        found += figures.paced(pace)
        plots.spreads(pace)
        remarks.append(
            f"Void rounds, measured again: {pace.void_count} ({'; '.join(sorted(pace.void_reasons))})."
        )
        remarks += [f"Streams that failed: {name}: {count}." for name, count in pace.failed.items() if count]
    if "relay" in steps:
        all_.mesh.renew()
        found += figures.relay(relay.measure(all_.relayed, rounds=rounds))
    if "ladder" in steps:
        climbs: dict[str, list[ladder.Climb]] = {}
        for _ in range(min(rounds, 3)):
            all_.mesh.renew()
            for name, some in ladder.measure(all_.climbing, rounds=1).items():
                climbs.setdefault(name, []).extend(some)
        found += figures.ladder(climbs)
        plots.ladder(climbs)
    if "costs" in steps:
        found += figures.costs(asyncio.run(costs.cached_auth_s()), asyncio.run(costs.validation_s()))
    return found, remarks


def main() -> None:
    began = os.getloadavg()
    with everybody() as all_:
        found, remarks = measure(all_)
        missing = [name for name in ("litellm", "vllm_router") if not installed(name)]
    if missing:
        remarks.append(f"Not installed: {', '.join(missing)}; `make bench-peers` gets them.")
    remarks.append(f"Load average: {began[0]:.1f} before, {os.getloadavg()[0]:.1f} after.")
    report("dataplane", rounds=ROUNDS, figures=found, remarks=remarks)


if __name__ == "__main__":
    main()
