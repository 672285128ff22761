"""The gateway in a process of its own, and who may call it."""

import asyncio
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc.aio
from ollamesh.inference.v1.fleet_pb2 import INSTANCE_STATE_READY, Fleet, GetFleetRequest
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import free_ports
from services.common.grpc.client import bearer
from services.common.tokens import LIFETIME_MAX_S
from tests.bench.support.report import ROOT
from tests.fakes.identity import Identity

START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    address: str
    pid: int
    _metrics_port: int
    _identity: Identity
    _channel: grpc.aio.Channel

    def token(self, tenant: str) -> str:
        return self._identity.token(org=tenant, ttl_s=LIFETIME_MAX_S)

    @property
    def stub(self) -> InferenceServiceStub:
        return InferenceServiceStub(self._channel)

    async def fleet(self) -> Fleet:
        metadata = bearer(self.token("observer"))
        call: Any = self.stub.GetFleet(GetFleetRequest(), timeout=5, metadata=metadata)
        fleet: Fleet = (await call).fleet
        return fleet

    async def until_idle(self) -> None:
        """Return when no slot is busy and nobody waits."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while (fleet := await self.fleet()).queues or any(one.busy_slot_count for one in fleet.instances):
                await asyncio.sleep(0.05)

    async def gpu_s(self) -> dict[str, float]:
        """Return the GPU-seconds that each tenant was charged so far, by the gateway's own books."""
        text = await asyncio.to_thread(self._metrics)
        charged: defaultdict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "ollamesh_gpu_seconds_total":
                    charged[sample.labels["tenant"]] += sample.value
        return charged

    async def totals(self, *names: str) -> list[float]:
        """Return metrics, each added up over its labels."""
        totals = dict.fromkeys(names, 0.0)
        for family in text_string_to_metric_families(await asyncio.to_thread(self._metrics)):
            for sample in family.samples:
                if sample.name in totals:
                    totals[sample.name] += sample.value
        return [totals[name] for name in names]

    def cpu_s(self) -> float:
        """Return the processor time that the gateway has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _metrics(self) -> str:
        with urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())


@asynccontextmanager
async def service(
    urls: Sequence[str], module: str = "services.inference", /, **settings: object
) -> AsyncIterator[Service]:
    """Run the gateway over instances. `settings` are its knobs in lower case, without their OLLAMESH_ prefix."""
    identity, (port, metrics_port) = Identity(), free_ports(2)
    async with identity.served() as auth_target:
        environment = {
            "OLLAMA_HOSTS": ",".join(urls),
            "OLLAMESH_INSECURE_INSIDE": "true",
            "OLLAMESH_AUTH_TARGET": auth_target,
            "OLLAMESH_INFERENCE_PORT": str(port),
            "OLLAMESH_INFERENCE_METRICS_PORT": str(metrics_port),
            "OLLAMESH_LAME_DUCK_S": "0",
            "OLLAMESH_GRACE_S": "1",
            "OLLAMESH_TIMEOUT_MIN_S": "0.1",
            **{
                name if name.isupper() else f"OLLAMESH_{name.upper()}": str(value)
                for name, value in settings.items()
            },
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            cwd=ROOT,
            env={**os.environ, **environment},
            stderr=subprocess.DEVNULL,
        )
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await asyncio.wait_for(channel.channel_ready(), START_TIMEOUT_S)
                found = Service(
                    address=f"127.0.0.1:{port}",
                    pid=process.pid,
                    _metrics_port=metrics_port,
                    _identity=identity,
                    _channel=channel,
                )
                await _until_ready(found, len(urls))
                yield found
        finally:
            process.terminate()
            await process.wait()


async def _until_ready(found: Service, count: int) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while sum(one.state == INSTANCE_STATE_READY for one in (await found.fleet()).instances) < count:
            await asyncio.sleep(0.05)
