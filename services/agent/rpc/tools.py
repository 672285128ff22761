"""Tools over gRPC."""

from collections.abc import Mapping

from ollamesh.agent.v1 import agent_service_pb2 as pb

from services.agent.ports import ToolSpec
from services.agent.wire import resources
from services.common.grpc.around import Context


class ToolMethods:
    def __init__(self, tools: Mapping[str, ToolSpec]) -> None:
        self._tools = tools

    async def ListTools(self, request: pb.ListToolsRequest, context: Context) -> pb.ListToolsResponse:
        return pb.ListToolsResponse(tools=map(resources.tool_to_proto, self._tools.values()))
