"""What monitoring is told, as JSON of the shape that it knows."""

import datetime as dt
import json

from google.api.httpbody_pb2 import HttpBody
from ollamesh.inference.v1.health_service_pb2 import GetHealthRequest
from ollamesh.inference.v1.health_service_pb2_grpc import HealthServiceServicer

from services.common.grpc.around import Context
from services.inference.checkup import Checkup, Word


class HealthServicer(HealthServiceServicer):
    def __init__(self, checkup: Checkup) -> None:
        self._checkup = checkup

    async def GetHealth(self, request: GetHealthRequest, context: Context) -> HttpBody:  # noqa: ARG002, N802 - gRPC's.
        words = self._checkup.words()
        is_degraded = Word.UNHEALTHY in words.values()
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {
            "status": "degraded" if is_degraded else "healthy",
            "checks": {**{name: word.value for name, word in words.items()}, "timestamp": now},
        }
        return HttpBody(content_type="application/json", data=json.dumps(told).encode())
