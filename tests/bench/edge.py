"""`make bench-edge`: what it costs to be let in.

Besides: how long a revoked key is let in, what is refused while the signing key is rotated, what it costs a service to check a
token, and how many events the audit trail takes.

The same unary echo, straight to the service and through the edge with a token or an API key, in the same rounds. One caller
at a time gives the added time, sixteen the calls per second; each ratio is of a round's pair, and then the median.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

import grpc
import grpc.aio
from ollamesh.auth.v1.auth_service_pb2 import RevokeApiKeyRequest, RotateSigningKeyRequest
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub

from services.common.grpc.client import bearer
from tests.bench.support.audit import audit_figures
from tests.bench.support.edge_parts import Parts, edge_parts
from tests.bench.support.load import Load, Outcome, run_async
from tests.bench.support.report import Figure, report
from tests.bench.support.token_checks import token_check_figures
from tests.service.auth_app import TIMEOUT_S

ROUNDS = int(os.environ.get("ROUNDS", "7"))
SECONDS, CALLERS = 1.5, 16
CONNECTIONS = 8  # The edge lets 2,000 calls a second pass on each.
METHOD = "/ollamesh.inference.v1.InferenceService/GetFleet"
REVOCATIONS, QUIET_S = 5, 1.5
ROTATION_CALLS_PER_S, AFTER_ROTATION_S = 200, 8.0
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
            connections=min(concurrency, CONNECTIONS),
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
    key = Path(name="edge, API key", port=parts.edge_port, bearer=(await parts.key())[1])
    paths = [direct, token, key]
    figures = added(await rounds(paths, 1), paths, {token.name: TOKEN_ADDED_MS_MAX})
    figures += shares(
        await rounds(paths, CALLERS), paths, {token.name: TOKEN_SHARE_MIN, key.name: KEY_SHARE_MIN}
    )
    return figures


async def revocation(parts: Parts) -> list[Figure]:
    """How long a revoked key is still let in by any replica: the longest of some."""
    stub, admin = AuthServiceStub(parts.stack.channel), await parts.admin()
    longest_s = 0.0
    for _ in range(REVOCATIONS):
        key_id, key = await parts.key()
        for _ in range(4):  # Every replica has it in its cache, and the edge too.
            await parts.stack.unary(METHOD)(b"", metadata=bearer(key), timeout=TIMEOUT_S)
        request = RevokeApiKeyRequest(api_key_id=key_id)
        await stub.RevokeApiKey(request, metadata=admin, timeout=TIMEOUT_S)
        began_s = last_s = time.perf_counter()
        while time.perf_counter() - last_s < QUIET_S:
            with suppress(grpc.aio.AioRpcError):
                await parts.stack.unary(METHOD)(b"", metadata=bearer(key), timeout=TIMEOUT_S)
                last_s = time.perf_counter()
        longest_s = max(longest_s, last_s - began_s)
    name = f"a revoked key was last let in after, longest of {REVOCATIONS}"
    return [Figure(name=name, value=longest_s, unit="s", goal=1.0)]


async def rotation(parts: Parts) -> list[Figure]:
    """Calls that are refused while the signing key is replaced, each with a token of the last second."""
    stub, admin = AuthServiceStub(parts.stack.channel), await parts.admin()
    answer = await stub.RotateSigningKey(RotateSigningKeyRequest(), metadata=admin, timeout=TIMEOUT_S)
    ends_s = answer.active_time.ToNanoseconds() / 1e9 + AFTER_ROTATION_S
    done, refused = 0, 0
    running: set[asyncio.Task[None]] = set()
    token, renewed_s = await parts.token(), time.monotonic()

    async def once(bearing: str) -> None:
        nonlocal done, refused
        try:
            await parts.stack.unary(METHOD)(b"", metadata=bearer(bearing), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            refused += 1
        done += 1

    while time.time() < ends_s:
        if time.monotonic() - renewed_s > 1.0:
            token, renewed_s = await parts.token(), time.monotonic()
        task = asyncio.create_task(once(token))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(1 / ROTATION_CALLS_PER_S)
    await asyncio.gather(*running)
    return [
        Figure(name="calls while the signing key is rotated", value=done, unit=""),
        Figure(name="of these refused", value=refused, unit="", goal=0),
    ]


async def main() -> None:
    async with edge_parts() as parts:
        figures = [*await overhead(parts), *await revocation(parts), *await rotation(parts)]
    figures += await asyncio.to_thread(token_check_figures)
    figures += await asyncio.to_thread(audit_figures)
    report("edge", rounds=ROUNDS, figures=figures)


if __name__ == "__main__":
    asyncio.run(main())
