"""What REST costs beside gRPC: the same chat, through the same Envoy, in the same rounds.

Envoy transcodes and the gateway writes JSON for each token; what comes before and after that is the same for both. The
processor time of the gateway is what a token costs there, whichever way it leaves.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from tests.bench.plane import relay
from tests.bench.plane.relay import Rate
from tests.bench.plane.target import MeshTargets, Target
from tests.bench.support.load import run
from tests.bench.support.peers import tree_cpu_s
from tests.bench.support.report import Figure, report
from tests.bench.support.stack import stack
from tests.bench.support.stub import stub

ROUNDS = int(os.environ.get("ROUNDS", "7"))
SECONDS = 1.5
ONE_TOKEN = "stub-n1-i0:latest"
FIRST_TOKEN_ADDED_MS_MAX, RELAY_SHARE_MIN = 3.0, 0.60


def first_tokens(targets: Sequence[Target]) -> Mapping[str, list[float]]:
    """Return each round's median first token of each target, in seconds: one request after the other."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for target in targets:
            outcome = run(target.load(ONE_TOKEN, concurrency=1, seconds=SECONDS))
            if trouble := outcome.void or outcome.failures:
                raise RuntimeError(f"{target.name}: {trouble} {outcome.first_failure}")
            found[target.name].append(outcome.first_token_s.p50)
    return found


def added(found: Mapping[str, list[float]], native: Target, rest: Sequence[Target]) -> list[Figure]:
    """What REST adds to a first token: of each round, and then the median."""
    base_s = median(found[native.name])
    figures = [Figure(name=f"first token, p50: {native.name}", value=base_s * 1e3, unit="ms")]
    for target in rest:
        pairs = zip(found[target.name], found[native.name], strict=True)
        figures += [
            Figure(
                name=f"first token, p50: {target.name}",
                value=median(found[target.name]) * 1e3,
                unit="ms",
                baseline=base_s * 1e3,
            ),
            Figure(
                name=f"first token, added: {target.name}",
                value=median(own_s - native_s for own_s, native_s in pairs) * 1e3,
                unit="ms",
                goal=FIRST_TOKEN_ADDED_MS_MAX,
            ),
        ]
    return figures


def relayed(rates: Mapping[str, list[Rate]], native: Target, rest: Sequence[Target]) -> list[Figure]:
    """How many tokens get through when the instance is as fast as it can be, and REST's share of that."""
    base = median(rate.tokens_per_s for rate in rates[native.name])
    figures = [Figure(name=f"relayed flat out: {native.name}", value=base, unit="tokens/s")]
    for target in rest:
        pairs = zip(rates[target.name], rates[native.name], strict=True)
        share = median(own.tokens_per_s / other.tokens_per_s for own, other in pairs)
        figures += [
            Figure(
                name=f"relayed flat out: {target.name}",
                value=median(rate.tokens_per_s for rate in rates[target.name]),
                unit="tokens/s",
                baseline=base,
            ),
            Figure(
                name=f"relayed flat out, share: {target.name}",
                value=share,
                unit="x",
                goal=RELAY_SHARE_MIN,
                at_least=True,
            ),
        ]
    return figures


def costs(mesh: MeshTargets, targets: Sequence[Target]) -> list[Figure]:
    """The gateway's own processor time per token of a stream that is slow enough to be told token by token."""
    figures = []
    for target in targets:
        began_s = tree_cpu_s(mesh.gateway.pid)
        outcome = run(target.load(PACED, concurrency=50, seconds=6.0, stagger_s=1.0))
        spent_s = tree_cpu_s(mesh.gateway.pid) - began_s
        figures.append(
            Figure(
                name=f"gateway's processor time per token, 50 streams of 50/s: {target.name}",
                value=spent_s / outcome.tokens * 1e6,
                unit="us",
            )
        )
    return figures


PACED = "stub-n50-i20000:latest"


def main() -> None:
    with (
        stub(ONE_TOKEN, relay.MODEL, PACED) as upstream,
        stack(OLLAMA_HOSTS=upstream.url, OLLAMESH_INSTANCE_SLOTS="1024") as running,
    ):
        mesh = MeshTargets(running)
        native, rest = mesh.edge, (mesh.ollama, mesh.openai)
        figures = added(first_tokens([native, *rest]), native, rest)
        mesh.renew()
        rates = relay.measure([(target, relay.MODEL) for target in (native, *rest)], rounds=ROUNDS)
        figures += relayed(rates, native, rest)
        mesh.renew()
        figures += costs(mesh, [native, *rest])
        report("rest", rounds=ROUNDS, figures=figures, remarks=[f"Limit of the stub: {upstream.limit}."])


if __name__ == "__main__":
    main()
