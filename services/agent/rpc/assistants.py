"""Assistants over gRPC; decides nothing but what a request means."""

from uuid import uuid4

from ollamesh.agent.v1 import agent_service_pb2 as pb

from services.agent.assistants import Assistants
from services.agent.core.ids import AssistantId
from services.agent.errors import AssistantNotFound
from services.agent.rpc.asking import asked_as, deletion, next_page_token, owner, page
from services.agent.rpc.configs import Configs
from services.agent.wire import resources, values
from services.common.audit import Trail
from services.common.grpc.around import Context


class AssistantMethods:
    def __init__(self, assistants: Assistants, configs: Configs, trail: Trail) -> None:
        self._assistants, self._configs, self._trail = assistants, configs, trail

    async def CreateAssistant(
        self, request: pb.CreateAssistantRequest, context: Context
    ) -> pb.CreateAssistantResponse:
        self._configs.checked(request.config)
        made = await self._assistants.create(
            owner(),
            AssistantId(uuid4()),
            request.display_name,
            request.config.SerializeToString(),
            asked_as(request, request.request_id),
        )
        return pb.CreateAssistantResponse(assistant=resources.assistant_to_proto(made))

    async def GetAssistant(
        self, request: pb.GetAssistantRequest, context: Context
    ) -> pb.GetAssistantResponse:
        found = await self._assistants.find(
            owner(), values.assistant_id(request.assistant_id), version=request.version
        )
        return pb.GetAssistantResponse(assistant=resources.assistant_to_proto(found))

    async def ListAssistants(
        self, request: pb.ListAssistantsRequest, context: Context
    ) -> pb.ListAssistantsResponse:
        found = await self._assistants.page(owner(), page(request.page_size, request.page_token))
        return pb.ListAssistantsResponse(
            assistants=map(resources.assistant_to_proto, found.items),
            next_page_token=next_page_token(found.next_after),
        )

    async def UpdateAssistant(
        self, request: pb.UpdateAssistantRequest, context: Context
    ) -> pb.UpdateAssistantResponse:
        assistant_id = values.assistant_id(request.assistant_id)
        self._configs.checked(request.config)
        made = await self._assistants.update(
            owner(),
            assistant_id,
            request.config.SerializeToString(),
            asked_as(request, request.request_id),
        )
        return pb.UpdateAssistantResponse(assistant=resources.assistant_to_proto(made))

    async def DeleteAssistant(
        self, request: pb.DeleteAssistantRequest, context: Context
    ) -> pb.DeleteAssistantResponse:
        try:
            assistant_id = values.assistant_id(request.assistant_id)
        except AssistantNotFound:
            return pb.DeleteAssistantResponse()  # It is as gone as can be.
        whose = owner()
        await self._assistants.delete(whose, assistant_id)
        self._trail.note(deletion(whose, f"assistant/{assistant_id}"))
        return pb.DeleteAssistantResponse()
