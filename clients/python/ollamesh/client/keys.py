"""API keys as Python values: credentials that last, for programs that nobody logs in for.

    key, text = await client.create_api_key("nightly job", scopes=["inference"])

`text` is what the program sends, as `ApiKey(text)` or as the `api_key` of OpenAI's client. It is shown this once.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1 import identity_pb2
from ollamesh.client.credentials import Role
from ollamesh.client.values import duration, time

ROLES: Mapping[int, Role] = {identity_pb2.ROLE_USER: "user", identity_pb2.ROLE_ADMIN: "admin"}
NUMBERS: Mapping[Role | None, identity_pb2.Role] = {
    None: identity_pb2.ROLE_UNSPECIFIED,
    "user": identity_pb2.ROLE_USER,
    "admin": identity_pb2.ROLE_ADMIN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is known of a key; its secret is not. Times are None where they have not come."""

    api_key_id: str
    display_name: str
    prefix: str
    user_id: str
    project_id: str
    role: Role | None
    scopes: tuple[str, ...]
    create_time: datetime | None
    expire_time: datetime | None
    last_used_time: datetime | None
    revoke_time: datetime | None


def request_of(
    display_name: str,
    *,
    request_id: str,
    scopes: Sequence[str],
    lifetime_s: float | None,
    project_id: str,
    role: Role | None,
) -> pb.CreateApiKeyRequest:
    return pb.CreateApiKeyRequest(
        request_id=request_id,
        display_name=display_name,
        scopes=scopes,
        lifetime=duration(lifetime_s),
        project_id=project_id,
        role=NUMBERS[role],
    )


def key_of(message: identity_pb2.ApiKey) -> Key:
    return Key(
        api_key_id=message.api_key_id,
        display_name=message.display_name,
        prefix=message.prefix,
        user_id=message.user_id,
        project_id=message.project_id,
        role=ROLES.get(message.role),
        scopes=tuple(message.scopes),
        create_time=time(message.create_time),
        expire_time=time(message.expire_time),
        last_used_time=time(message.last_used_time),
        revoke_time=time(message.revoke_time),
    )


async def listed(
    call: Callable[[pb.ListApiKeysRequest], Awaitable[pb.ListApiKeysResponse]],
) -> AsyncGenerator[Key, None]:
    """Every page of them, one after the other."""
    request = pb.ListApiKeysRequest()
    while True:
        response = await call(request)
        for key in response.api_keys:
            yield key_of(key)
        if not response.next_page_token:
            return
        request = pb.ListApiKeysRequest(page_token=response.next_page_token)
