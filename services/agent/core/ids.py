"""What things are called, so that a thread's name is never taken for a run's."""

from dataclasses import dataclass
from typing import NewType
from uuid import UUID

ThreadId = NewType("ThreadId", UUID)
RunId = NewType("RunId", UUID)
AssistantId = NewType("AssistantId", UUID)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose thread it is. To anybody else it does not exist."""

    organization_id: str
    user_id: str
