"""AuthService, put together from what each subject serves (rpc/)."""

from ollamesh.auth.v1 import auth_service_pb2
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer

_METHODS = auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"].methods


class AuthServicer(AuthServiceServicer):
    """The generated base answers for what no subject serves."""

    def __init__(self, *subjects: object) -> None:
        """Each method is served by the first of `subjects` that has one of its name."""
        for method in _METHODS:
            served = next(
                (own for own in (getattr(each, method.name, None) for each in subjects) if own), None
            )
            if served is not None:
                setattr(self, method.name, served)
