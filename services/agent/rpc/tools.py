"""Tools over gRPC."""

from collections.abc import Mapping

from ollamesh.agent.v1 import agent_service_pb2 as pb

from services.agent.core.policy import Rules
from services.agent.ports import ToolSpec
from services.agent.wire import resources
from services.common.grpc.around import Context
from services.common.grpc.caller import caller


class ToolMethods:
    def __init__(self, tools: Mapping[str, ToolSpec], rules: Rules) -> None:
        self._tools, self._rules = tools, rules

    async def ListTools(self, request: pb.ListToolsRequest, context: Context) -> pb.ListToolsResponse:
        role = caller().role.value
        return pb.ListToolsResponse(
            tools=[
                resources.tool_to_proto(spec, needs_approval=self._rules.ask(name))
                for name, spec in self._tools.items()
                if not self._rules.refuse(name, role)
            ]
        )
