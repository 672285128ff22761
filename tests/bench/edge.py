"""`make bench-edge`: what it costs to be let in.

The same unary echo, straight to the service and through the edge with a token or an API key, in the same rounds. One caller
at a time gives the added time, sixteen the calls per second; each ratio is of a round's pair, and then the median.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.bench.support.edge_parts import Parts, edge_parts
from tests.bench.support.load import Load, Outcome, run_async
from tests.bench.support.report import Figure, report

ROUNDS = int(os.environ.get("ROUNDS", "7"))
SECONDS, CALLERS = 1.5, 16
METHOD = "/ollamesh.inference.v1.InferenceService/GetFleet"
TOKEN_SHARE_MIN, TOKEN_ADDED_MS_MAX, KEY_SHARE_MIN = 0.6, 1.5, 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A way to the echo."""

    name: str
    port: int
    bearer: str | None = field(default=None, repr=False)

    def load(self, concurrency: int) -> Load:
        return Load(
            protocol="grpc",
            port=self.port,
            path=METHOD,
            body=b"hello",
            bearer=self.bearer,
            concurrency=concurrency,
            seconds=SECONDS,
            warm_up_s=0.2,
        )


async def rounds(paths: Sequence[Path], concurrency: int) -> Mapping[str, list[Outcome]]:
    """Each path's outcomes, the paths taking turns."""
    found: defaultdict[str, list[Outcome]] = defaultdict(list)
    for _ in range(ROUNDS):
        for path in paths:
            outcome = await run_async(path.load(concurrency))
            if trouble := outcome.void or outcome.failures:
                raise RuntimeError(f"{path.name}: {trouble} {outcome.first_failure}")
            found[path.name].append(outcome)
    return found


def shares(
    found: Mapping[str, list[Outcome]], paths: Sequence[Path], goals: Mapping[str, float]
) -> list[Figure]:
    direct, *others = paths
    rates = {name: [one.completed / one.wall_s for one in outcomes] for name, outcomes in found.items()}
    figures = [Figure(name=f"{CALLERS} callers: {direct.name}", value=median(rates[direct.name]), unit="/s")]
    for path in others:
        pairs = zip(rates[path.name], rates[direct.name], strict=True)
        figures += [
            Figure(
                name=f"{CALLERS} callers: {path.name}",
                value=median(rates[path.name]),
                unit="/s",
                baseline=median(rates[direct.name]),
            ),
            Figure(
                name=f"share of the calls per second: {path.name}",
                value=median(own / base for own, base in pairs),
                unit="x",
                goal=goals.get(path.name),
                at_least=True,
            ),
        ]
    return figures


def added(
    found: Mapping[str, list[Outcome]], paths: Sequence[Path], goals: Mapping[str, float]
) -> list[Figure]:
    direct, *others = paths
    times_ms = {name: [one.total_s.p50 * 1e3 for one in outcomes] for name, outcomes in found.items()}
    figures = [Figure(name=f"one caller, p50: {direct.name}", value=median(times_ms[direct.name]), unit="ms")]
    for path in others:
        pairs = zip(times_ms[path.name], times_ms[direct.name], strict=True)
        figures.append(
            Figure(
                name=f"one caller, added to p50: {path.name}",
                value=median(own - base for own, base in pairs),
                unit="ms",
                goal=goals.get(path.name),
            )
        )
    return figures


async def overhead(parts: Parts) -> list[Figure]:
    direct = Path(name="straight to the service", port=parts.echo_port)
    token = Path(name="edge, token", port=parts.edge_port, bearer=await parts.token())
    key = Path(name="edge, API key", port=parts.edge_port, bearer=await parts.key())
    paths = [direct, token, key]
    figures = added(await rounds(paths, 1), paths, {token.name: TOKEN_ADDED_MS_MAX})
    figures += shares(
        await rounds(paths, CALLERS), paths, {token.name: TOKEN_SHARE_MIN, key.name: KEY_SHARE_MIN}
    )
    return figures


async def main() -> None:
    async with edge_parts() as parts:
        figures = await overhead(parts)
    report("edge", rounds=ROUNDS, figures=figures)


if __name__ == "__main__":
    asyncio.run(main())
