"""AuthService, put together from what each subject serves (rpc/)."""

from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer

from services.auth.api_keys import ApiKeys
from services.auth.grants import Grants
from services.auth.rpc.api_keys import ApiKeyMethods
from services.auth.rpc.login import LoginMethods


class AuthServicer(LoginMethods, ApiKeyMethods, AuthServiceServicer):
    def __init__(self, *, grants: Grants, api_keys: ApiKeys) -> None:
        LoginMethods.__init__(self, grants)
        ApiKeyMethods.__init__(self, api_keys)
