"""What there is, and what a caller may ask for."""

from ollamesh.sandbox.v1.sandbox_service_pb2 import (
    Engine,
    GetCapabilitiesRequest,
    GetCapabilitiesResponse,
    Profile,
)

from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.sandbox.catalogue import Catalogue
from services.sandbox.limits_config import RoleCaps
from services.sandbox.rpc.messages import limits_message


class CapabilityMethods:
    def __init__(
        self, catalogue: Catalogue, caps: RoleCaps, *, session_count_max: int, file_bytes_max: int
    ) -> None:
        self._catalogue, self._caps = catalogue, caps
        self._session_count_max, self._file_bytes_max = session_count_max, file_bytes_max

    async def GetCapabilities(
        self, request: GetCapabilitiesRequest, context: Context
    ) -> GetCapabilitiesResponse:
        caps = self._caps.of(caller())
        answer = GetCapabilitiesResponse(
            default_limits=limits_message(caps.usual),
            max_limits=limits_message(caps.most),
            max_session_count=self._session_count_max,
            max_file_bytes=self._file_bytes_max,
        )
        engines: dict[str, Engine] = {}
        profiles: dict[str, Profile] = {}
        for jails in self._catalogue.every:
            if jails.problem is not None:
                answer.unavailable_profiles.add(
                    profile=jails.profile.name, engine=jails.engine, problem=jails.problem
                )
                continue
            if jails.engine not in engines:
                engines[jails.engine] = Engine(
                    name=jails.engine,
                    enforced_limits=jails.strength.enforced_limits,
                    weaknesses=jails.strength.weaknesses,
                )
            about = jails.profile
            profile = profiles.setdefault(about.name, Profile(name=about.name))
            profile.runtime, profile.keeps_variables = about.runtime, about.keeps_variables
            profile.packages[:] = about.packages
            profile.engines.append(jails.engine)
        answer.engines.extend(engines.values())
        answer.profiles.extend(profiles.values())
        return answer
