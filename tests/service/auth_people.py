"""What tests of people and tenants share: callers with a token, and what they ask."""

import itertools
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc.aio
import pytest
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER, Role, User

from services.common.grpc.client import bearer
from tests.service.auth_app import ADMIN_PASSWORD, TIMEOUT_S, Auth, failure

PASSWORD = "a long enough one"
NOT_FOUND, DENIED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED
INVALID, TAKEN = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS

T = TypeVar("T")
_numbers = itertools.count(1)


def fresh(name: str) -> str:
    """A name that no other test of this process has."""
    return f"{name}-{next(_numbers)}"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has logged in."""

    auth: Auth
    token: str

    async def ask(self, method: str, request: Any) -> Any:
        call = getattr(self.auth.service, method)
        return await call(request, metadata=bearer(self.token), timeout=TIMEOUT_S)

    async def refused(self, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.ask(method, request)
        return failure(refused.value)

    async def create_user(
        self, username: str, *, role: Role = ROLE_USER, password: str = PASSWORD, **more: Any
    ) -> User:
        request = pb.CreateUserRequest(username=username, password=password, role=role, **more)
        answer: pb.CreateUserResponse = await self.ask("CreateUser", request)
        return answer.user


async def logged_in(auth: Auth, username: str = "admin", password: str = ADMIN_PASSWORD) -> Person:
    request = pb.LoginRequest(username=username, password=password)
    return Person(auth, (await auth.service.Login(request, timeout=TIMEOUT_S)).tokens.access_token)


async def login_refused(auth: Auth, username: str, password: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await logged_in(auth, username, password)
    return failure(refused.value)


async def another_organization(founder: Person) -> tuple[str, Person, User]:
    """Its id, its first admin as a caller, and as a user."""
    name = fresh("rival")
    request = pb.CreateOrganizationRequest(
        display_name="Rivals", organization_id=name, admin_username=f"{name}-admin", admin_password=PASSWORD
    )
    made: pb.CreateOrganizationResponse = await founder.ask("CreateOrganization", request)
    return name, await logged_in(founder.auth, f"{name}-admin", PASSWORD), made.admin


ADMIN = ROLE_ADMIN
