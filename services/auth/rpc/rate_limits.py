"""Envoy's rate limit service; decides nothing.

A descriptor names who pays, from the token that the edge has verified, and the gRPC path, whose service is the one that
refuses. What callers are told is put into words here, and into their form by edge.lua.
"""

import base64
import math

from ollamesh.compat.envoy.v3 import rls_pb2 as pb
from ollamesh.compat.envoy.v3.rls_pb2_grpc import RateLimitServiceServicer

from services.auth.core.quotas import Account
from services.auth.rates import Fits, Over, Rates
from services.common.errors import RequestsLimited
from services.common.grpc.around import Context
from services.common.grpc.errors import status_of

# The names are shared with deploy/envoy/ratelimits.py and edge.lua.
ORGANIZATION, PROJECT, API_KEY, PATH = "org", "project", "api_key", "path"
UNLIMITED = "unlimited"
COMPATIBLE = "compat"  # REST surfaces, all of the inference service.
_OK = pb.RateLimitResponse.OK
_OVER = pb.RateLimitResponse.OVER_LIMIT


class RateLimitServicer(RateLimitServiceServicer):
    def __init__(self, rates: Rates) -> None:
        self._rates = rates

    async def ShouldRateLimit(self, request: pb.RateLimitRequest, context: Context) -> pb.RateLimitResponse:
        answer = pb.RateLimitResponse(overall_code=_OK)
        for descriptor in request.descriptors:
            facts = {entry.key: entry.value for entry in descriptor.entries}
            account = Account(
                organization_id=facts.get(ORGANIZATION, ""),
                project_id=facts.get(PROJECT, ""),
                api_key_id=facts.get(API_KEY, ""),
            )
            found = await self._rates.check(account)
            if isinstance(found, Over):
                answer.overall_code = _OVER
                _tell(answer, found, facts.get(PATH, ""))
            else:
                answer.dynamic_metadata.update({UNLIMITED: found is Fits.UNLIMITED})
            answer.statuses.add(code=_OVER if isinstance(found, Over) else _OK)
        return answer


def _tell(answer: pb.RateLimitResponse, over: Over, path: str) -> None:
    error = RequestsLimited(
        quota=over.quota,
        limit=over.limit.count,
        window_s=over.limit.seconds,
        retry_after_s=over.retry_after_s,
    )
    details = status_of(error, f"{_service_of(path)}.ollamesh").SerializeToString()
    answer.dynamic_metadata.update(
        {
            "refusal": error.reason,
            "limit": str(over.limit.count),
            "reset": str(math.ceil(over.retry_after_s)),
            "details": base64.b64encode(details).decode().rstrip("="),
        }
    )


def _service_of(path: str) -> str:
    """`/ollamesh.agent.v1.AgentService/StartRun` is the agent's."""
    name = path.removeprefix("/ollamesh.").partition(".")[0]
    return "inference" if name == COMPATIBLE else name
