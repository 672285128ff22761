"""Users over gRPC; decides nothing."""

from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import User

from services.auth.core.request_digest import RequestDigest
from services.auth.people import People, UserWanted
from services.auth.people_ports import Person
from services.auth.rpc.asking import ROLE_NUMBERS, ROLES, actor, asked, next_page_token, page
from services.common.grpc.around import Context


class PeopleMethods:
    def __init__(self, people: People, digest: RequestDigest) -> None:
        self._people, self._request_digest = people, digest

    async def CreateUser(self, request: pb.CreateUserRequest, context: Context) -> pb.CreateUserResponse:
        wanted = UserWanted(
            username=request.username,
            password=request.password,
            role=ROLES[request.role],
            project_id=request.project_id,
        )
        named = asked(self._request_digest, request, request.request_id)
        return pb.CreateUserResponse(user=user(await self._people.create(actor(), wanted, named)))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        found = await self._people.page(actor(), page(request.page_size, request.page_token))
        return pb.ListUsersResponse(
            users=map(user, found.items), next_page_token=next_page_token(found.next_after)
        )

    async def SetRole(self, request: pb.SetRoleRequest, context: Context) -> pb.SetRoleResponse:
        changed = await self._people.set_role(actor(), request.user_id, ROLES[request.role])
        return pb.SetRoleResponse(user=user(changed))

    async def SetProject(self, request: pb.SetProjectRequest, context: Context) -> pb.SetProjectResponse:
        changed = await self._people.set_project(actor(), request.user_id, request.project_id)
        return pb.SetProjectResponse(user=user(changed))

    async def SetPassword(self, request: pb.SetPasswordRequest, context: Context) -> pb.SetPasswordResponse:
        await self._people.set_password(
            actor(), request.user_id, old=request.old_password, new=request.new_password
        )
        return pb.SetPasswordResponse()

    async def DisableUser(self, request: pb.DisableUserRequest, context: Context) -> pb.DisableUserResponse:
        return pb.DisableUserResponse(user=user(await self._people.disable(actor(), request.user_id)))

    async def EnableUser(self, request: pb.EnableUserRequest, context: Context) -> pb.EnableUserResponse:
        return pb.EnableUserResponse(user=user(await self._people.enable(actor(), request.user_id)))


def user(person: Person) -> User:
    return User(
        user_id=person.user_id,
        username=person.username,
        role=ROLE_NUMBERS[person.role],
        organization_id=person.organization_id,
        project_id=person.project_id,
        disabled=person.disabled,
        create_time=person.create_time,
        display_name=person.display_name,
        issuer=person.issuer,
    )
