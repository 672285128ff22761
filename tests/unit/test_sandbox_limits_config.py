"""The knobs of limits and bounds: what each role gets, and every mistake at once."""

import pytest

from services.common.config import ConfigError, Environment
from services.common.tokens import Caller, Role
from services.sandbox.admission_config import read_bounds
from services.sandbox.core.admission import Bounds
from services.sandbox.core.limits import MIB, Asked, Limits, granted
from services.sandbox.limits_config import RoleCaps, read_caps


def caps(**settings: str) -> RoleCaps:
    env = Environment({f"OLLAMESH_SANDBOX_{name}": value for name, value in settings.items()})
    found = read_caps(env)
    env.check()
    return found


def bounds(settings: dict[str, str], *, warm_bytes: int = 0) -> Bounds:
    env = Environment({f"OLLAMESH_SANDBOX_{name}": value for name, value in settings.items()})
    found = read_bounds(env, read_caps(env), warm_bytes=warm_bytes)
    env.check()
    return found


def who(role: Role = Role.USER, *, user_id: str = "ada", client_id: str = "c") -> Caller:
    return Caller(
        user_id=user_id,
        role=role,
        organization_id="o",
        project_id="p",
        client_id=client_id,
        scopes=frozenset(),
        token_id="t",
        expires_at_s=0,
        token="",
    )


def test_the_defaults_are_those_of_the_guide() -> None:
    found = caps().of(who())
    assert found.usual == found.most == Limits()
    usual = found.usual
    assert (usual.wall_s, usual.memory_bytes, usual.process_count) == (10.0, 512 * MIB, 64)
    assert (usual.output_bytes, usual.files_bytes, usual.cpu_s) == (MIB, 64 * MIB, None)


def test_each_role_has_caps_of_its_own() -> None:
    found = caps(
        LIMITS_USER="wall_s=5, memory_mib=256",
        LIMITS_ADMIN="wall_s=600,processes=256,output_kib=4096,files_mib=128,cpu_s=60",
        LIMITS_SERVICE="memory_mib=1024",
    )
    user, admin = found.of(who()), found.of(who(Role.ADMIN))
    service = found.of(who(user_id="service:bot", client_id="bot"))
    assert user.most == Limits(wall_s=5.0, memory_bytes=256 * MIB)
    assert user.usual == user.most  # What is usual is more than they may have.
    assert admin.usual == Limits(cpu_s=60.0)
    assert granted(Asked(wall_s=60.0, process_count=999), admin).wall_s == 60.0
    assert granted(Asked(process_count=999), admin).process_count == 256
    assert (admin.most.output_bytes, admin.most.files_bytes) == (4 * MIB, 128 * MIB)
    assert service.most.memory_bytes == 1024 * MIB
    assert service.usual.memory_bytes == 512 * MIB


def test_every_mistake_is_named_at_once_and_no_value() -> None:
    with pytest.raises(ConfigError) as refused:
        caps(WALL_S="-1", LIMITS_USER="wall_s=abc,colour=7", LIMITS_ADMIN="memory_mib=1,processes=nan")
    mistakes = refused.value.mistakes
    assert len(mistakes) == 5
    assert sum("OLLAMESH_SANDBOX_LIMITS_USER" in each for each in mistakes) == 2
    assert sum("OLLAMESH_SANDBOX_LIMITS_ADMIN" in each for each in mistakes) == 2
    assert not any("abc" in each or "colour" in each for each in mistakes)


def test_warm_jails_count_only_what_they_hold() -> None:
    found = bounds({"MEMORY_BUDGET_MIB": "4096"}, warm_bytes=64 * MIB)
    assert found.memory_bytes == 4032 * MIB


def test_sessions_always_leave_room_for_the_largest_execution() -> None:
    settings = {"MEMORY_BUDGET_MIB": "4096", "LIMITS_ADMIN": "memory_mib=2048"}
    assert bounds(settings).session_memory_bytes == 2048 * MIB
    assert bounds({"MEMORY_BUDGET_MIB": "4096"}).session_memory_bytes == 3072 * MIB
    assert bounds({"MEMORY_BUDGET_MIB": "512"}).session_memory_bytes == 0


def test_nobody_may_ask_for_more_memory_than_there_is() -> None:
    within = caps(LIMITS_ADMIN="memory_mib=2048").within(300 * MIB)
    assert within.usual.memory_bytes == 300 * MIB
    assert within.of(who(Role.ADMIN)).most.memory_bytes == 300 * MIB


def test_a_budget_for_not_even_one_program_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="MEMORY_BUDGET_MIB"):
        bounds({"MEMORY_BUDGET_MIB": "50"}, warm_bytes=32 * MIB)


def test_without_a_budget_it_is_taken_from_the_machine() -> None:
    assert bounds({}).memory_bytes > 0
