"""SandboxService, put together from what each subject serves (rpc/)."""

from ollamesh.sandbox.v1 import sandbox_service_pb2
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceServicer

from services.common.grpc.subjects import serve_subjects


class SandboxServicer(SandboxServiceServicer):
    """Methods that no subject serves answer UNIMPLEMENTED, as the generated base class does."""

    def __init__(self, *subjects: object) -> None:
        service = sandbox_service_pb2.DESCRIPTOR.services_by_name["SandboxService"]
        serve_subjects(self, service, *subjects)
