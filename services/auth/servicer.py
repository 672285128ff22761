"""AuthService, put together from what each subject serves (rpc/)."""

from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer

from services.auth.grants import Grants
from services.auth.quotas import Quotas
from services.auth.rpc.login import LoginMethods
from services.auth.rpc.quotas import QuotaMethods


class AuthServicer(LoginMethods, QuotaMethods, AuthServiceServicer):
    def __init__(self, *, grants: Grants, quotas: Quotas) -> None:
        LoginMethods.__init__(self, grants)
        QuotaMethods.__init__(self, quotas)
