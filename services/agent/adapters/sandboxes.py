"""The replicas of the sandbox. What a user has there lives in one of them, so that calls have to know which.

The edge leads each user to one replica; the agent calls without the edge, and does the same among the targets that it
is given. A target is one replica: a name behind which there are several would lose sessions at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceStub

from services.agent.adapters.refusals import Refusal, refusal_of
from services.agent.core.ids import Owner
from services.agent.core.rendezvous import ranked

if TYPE_CHECKING:  # Known to the stubs' types alone.
    from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceAsyncStub

DOMAIN = "sandbox.ollamesh"
SERVICE = "ollamesh.sandbox.v1.SandboxService"
IDEMPOTENT = (
    "StartExecution",  # By its id.
    "GetExecution",
    "WatchExecution",
    "InterruptExecution",
    "KillExecution",
    "CreateSession",  # By its request_id.
    "GetSession",
    "ListSessions",
    "DeleteSession",
    "GetFile",
)
AWAY = frozenset({"UNAVAILABLE", "SANDBOX_UNAVAILABLE"})


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One replica."""

    target: str
    stub: "SandboxServiceAsyncStub"


class Sandboxes:
    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        """By target."""
        self._all = {
            target: Sandbox(target, SandboxServiceStub(channel)) for target, channel in channels.items()
        }

    @property
    def count(self) -> int:
        return len(self._all)

    def of(self, owner: Owner) -> Sequence[Sandbox]:
        """The one where the owner's sessions are made, then those that stand in for it."""
        key = f"{owner.organization_id}\0{owner.user_id}"
        return [self._all[target] for target in ranked(self._all, key)]

    def at(self, target: str) -> Sandbox | None:
        """The one at `target`, if it is still one of them."""
        return self._all.get(target)


def refused(error: grpc.aio.AioRpcError) -> Refusal:
    """What a sandbox said."""
    return refusal_of(error, domain=DOMAIN)
