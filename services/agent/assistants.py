"""Configurations with a name and versions: what the service needs of their store."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.agent.core.ids import AssistantId, Owner
from services.agent.ports import Page, PageRequest, Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantRecord:
    """An assistant at one of its versions."""

    assistant_id: AssistantId
    version: int
    display_name: str
    config: (
        bytes  # agent.v1.RunConfig, as its user gave it: what is unset is told from what is set to a default.
    )
    create_time: datetime  # Of the assistant.
    update_time: datetime  # When the version was made.


class Assistants(Protocol):
    """Whose they are is asked in each. Every method raises StoreFailure when the store does not answer."""

    async def create(
        self, owner: Owner, assistant_id: AssistantId, name: str, config: bytes, retry: Retry | None
    ) -> AssistantRecord:
        """Its first version. A repeated request finds it. Raises RequestIdReused, TooManyObjects."""
        ...

    async def find(self, owner: Owner, assistant_id: AssistantId, *, version: int = 0) -> AssistantRecord:
        """At that version, or the latest. Raises AssistantNotFound."""
        ...

    async def page(self, owner: Owner, request: PageRequest) -> Page[AssistantRecord]:
        """The owner's, at their latest versions, newest first."""
        ...

    async def update(
        self, owner: Owner, assistant_id: AssistantId, config: bytes, retry: Retry | None
    ) -> AssistantRecord:
        """The next version. A repeated request finds it. Raises AssistantNotFound, RequestIdReused, TooManyObjects."""
        ...

    async def delete(self, owner: Owner, assistant_id: AssistantId) -> None:
        """Forget it, all of its versions and the requests that made them. Idempotent."""
        ...
