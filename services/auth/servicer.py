"""AuthService, put together from what each subject serves (rpc/)."""

from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer

from services.auth.core.request_digest import RequestDigest
from services.auth.grants import Grants
from services.auth.people import People
from services.auth.rpc.login import LoginMethods
from services.auth.rpc.people import PeopleMethods
from services.auth.rpc.tenants import TenantMethods
from services.auth.tenants import Tenants


class AuthServicer(LoginMethods, PeopleMethods, TenantMethods, AuthServiceServicer):
    def __init__(
        self, *, grants: Grants, people: People, tenants: Tenants, request_digest: RequestDigest
    ) -> None:
        LoginMethods.__init__(self, grants)
        PeopleMethods.__init__(self, people, request_digest)
        TenantMethods.__init__(self, tenants, request_digest)
