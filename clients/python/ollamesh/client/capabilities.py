"""What a sandbox can do, as Python values."""

from dataclasses import dataclass

from ollamesh.client.executions import Limits, limits_of
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A way to jail. `enforced_limits` are those that the kernel holds a whole execution to."""

    name: str
    enforced_limits: tuple[str, ...]
    weaknesses: tuple[str, ...]  # Where it is weaker than it could be, in sentences.


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is installed in a jail. `packages` are "name version"; `engines` those that have it, strongest first."""

    name: str
    runtime: str
    packages: tuple[str, ...]
    engines: tuple[str, ...]
    keeps_variables: bool  # Its sessions do; they keep files anyway.


@dataclass(frozen=True, slots=True, kw_only=True)
class UnavailableProfile:
    """A profile of which an engine makes no jails. `problem` says why, and what mends it."""

    profile: str
    engine: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What there is, and what this caller may ask for. `engines` are in the order in which they are chosen."""

    engines: tuple[Engine, ...]
    profiles: tuple[Profile, ...]
    unavailable_profiles: tuple[UnavailableProfile, ...]  # Configured, and not to be had just now.
    default_limits: Limits
    max_limits: Limits
    session_count_max: int
    file_bytes_max: int


def capabilities_of(message: pb.GetCapabilitiesResponse) -> Capabilities:
    return Capabilities(
        engines=tuple(
            Engine(
                name=engine.name,
                enforced_limits=tuple(engine.enforced_limits),
                weaknesses=tuple(engine.weaknesses),
            )
            for engine in message.engines
        ),
        profiles=tuple(
            Profile(
                name=profile.name,
                runtime=profile.runtime,
                packages=tuple(profile.packages),
                engines=tuple(profile.engines),
                keeps_variables=profile.keeps_variables,
            )
            for profile in message.profiles
        ),
        unavailable_profiles=tuple(
            UnavailableProfile(profile=each.profile, engine=each.engine, problem=each.problem)
            for each in message.unavailable_profiles
        ),
        default_limits=limits_of(message.default_limits),
        max_limits=limits_of(message.max_limits),
        session_count_max=message.max_session_count,
        file_bytes_max=message.max_file_bytes,
    )
