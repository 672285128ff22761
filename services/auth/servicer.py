"""AuthService, put together from what each subject serves (rpc/)."""

from ollamesh.auth.v1 import auth_service_pb2
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer

from services.common.grpc.subjects import serve_subjects


class AuthServicer(AuthServiceServicer):
    def __init__(self, *subjects: object) -> None:
        serve_subjects(self, auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"], *subjects)
