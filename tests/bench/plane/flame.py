"""`make profile`: where the gateway's time goes, as flame graphs, one for each way of being busy.

py-spy samples a gateway under load from outside. It must be allowed to look into the process: as root, or where
`kernel.yama.ptrace_scope` is 0.
"""

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.plane.target import CHAT, CONNECTIONS
from tests.bench.support.load import Load, Outcome, run_async
from tests.bench.support.peers import grpc_body
from tests.bench.support.report import RESULTS
from tests.bench.support.service import Service, service
from tests.bench.support.stub import stub

SECONDS, LEAD_S = 10.0, 2.0
SAMPLES_PER_S = 500
SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    model: str
    streams: int


SCENARIOS = (
    Scenario("paced", "stub-n500-i20000:latest", 150),
    Scenario("saturated", "stub-n5000-i0:latest", 4),
    Scenario("requests", "stub-n1-i0:latest", 4),
)


async def flame(gateway: Service, scenario: Scenario) -> tuple[Path, Outcome]:
    """Put the scenario's load on, and record while it is on."""
    path = RESULTS / f"profile-{scenario.name}.svg"
    load = Load(
        protocol="grpc",
        port=int(gateway.address.rpartition(":")[2]),
        path=CHAT,
        body=grpc_body(scenario.model),
        bearer=gateway.token("bench"),
        connections=CONNECTIONS,
        concurrency=scenario.streams,
        stagger_s=LEAD_S / 2,
        seconds=SECONDS + 2 * LEAD_S,
        drain_s=1.0,
    )
    running = asyncio.create_task(run_async(load))
    await asyncio.sleep(LEAD_S)
    spy = str(Path(sys.executable).with_name("py-spy"))
    recording = await asyncio.create_subprocess_exec(
        *(spy, "record", "--pid", str(gateway.pid), "--native", "--threads"),
        *("--rate", str(SAMPLES_PER_S), "--duration", f"{SECONDS:.0f}", "--output", str(path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, errors = await recording.communicate()
    outcome = await running
    if recording.returncode:
        raise RuntimeError(f"py-spy: {errors.decode().strip().splitlines()[-1]}")
    return path, outcome


async def main() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    with stub(*(scenario.model for scenario in SCENARIOS)) as upstream:
        async with service([upstream.url], instance_slots=SLOTS) as gateway:
            for scenario in SCENARIOS:
                path, outcome = await flame(gateway, scenario)
                print(f"{scenario.name}: {outcome.tokens_per_s:,.0f} tokens/s, {path}")


if __name__ == "__main__":
    asyncio.run(main())
