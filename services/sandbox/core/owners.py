"""Whose an execution or a session is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """A user of an organisation, from a verified token. Nobody else knows of what is theirs."""

    organization_id: str
    user_id: str
