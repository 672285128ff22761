"""AgentService, put together from what each subject serves (rpc/)."""

from ollamesh.agent.v1 import agent_service_pb2
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceServicer

from services.common.grpc.subjects import serve_subjects


class AgentServicer(AgentServiceServicer):
    """Methods that no subject serves answer UNIMPLEMENTED, as the generated base class does."""

    def __init__(self, *subjects: object) -> None:
        serve_subjects(self, agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"], *subjects)
