"""What a caller is told that there is: by their role, and only what works."""

from typing import Any

from ollamesh.sandbox.v1.sandbox_service_pb2 import GetCapabilitiesRequest, GetCapabilitiesResponse

from services.common.config import Environment
from services.common.grpc import caller
from services.common.tokens import Role
from services.sandbox.catalogue import Catalogue
from services.sandbox.limits_config import read_caps
from services.sandbox.profiles import Profile
from services.sandbox.rpc.capabilities import CapabilityMethods
from tests.fakes.fake_jails import FakeJails
from tests.unit.test_sandbox_limits_config import who


async def asked_by(role: Role, *jails: FakeJails) -> GetCapabilitiesResponse:
    caller._caller.set(who(role))
    caps = read_caps(Environment({"OLLAMESH_SANDBOX_LIMITS_ADMIN": "wall_s=60,processes=128"}))
    methods = CapabilityMethods(Catalogue(jails), caps, session_count_max=4, file_bytes_max=7)
    context: Any = None
    return await methods.GetCapabilities(GetCapabilitiesRequest(), context)


async def test_each_is_told_what_is_usual_and_the_most_for_their_role() -> None:
    user, admin = await asked_by(Role.USER), await asked_by(Role.ADMIN)
    assert user.default_limits == user.max_limits == admin.default_limits
    assert (user.max_limits.wall.seconds, admin.max_limits.wall.seconds) == (10, 60)
    assert (user.max_limits.process_count, admin.max_limits.process_count) == (64, 128)


async def test_only_what_works_is_listed() -> None:
    works, broken = FakeJails(), FakeJails(engine="broken", problem="it is")
    data = FakeJails(profile=Profile(name="data", packages=("numpy 2",)))
    told = await asked_by(Role.USER, works, broken, data)
    assert [engine.name for engine in told.engines] == ["fake"]
    (lost,) = told.unavailable_profiles
    assert (lost.profile, lost.engine, lost.problem) == ("python", "broken", "it is")
    assert [(profile.name, list(profile.packages)) for profile in told.profiles] == [
        ("python", []),
        ("data", ["numpy 2"]),
    ]
