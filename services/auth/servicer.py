"""AuthService, put together from what each subject serves (rpc/)."""

from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer

from services.auth.grants import Grants
from services.auth.rpc.login import LoginMethods


class AuthServicer(LoginMethods, AuthServiceServicer):
    def __init__(self, *, grants: Grants) -> None:
        LoginMethods.__init__(self, grants)
