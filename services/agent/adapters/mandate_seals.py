"""Mandates as they are stored: sealed, each for its run, so that nobody who reads or writes rows can act with one."""

from services.agent.core.ids import Owner, RunId
from services.common.seals import Seals

PURPOSE = "mandates"


def sealed_mandate(seals: Seals, mandate: str, owner: Owner, run_id: RunId) -> bytes:
    return seals.seal(mandate.encode(), tenant=owner.organization_id, name=run_id.bytes)


def opened_mandate(seals: Seals, sealed: bytes, owner: Owner, run_id: RunId) -> str | None:
    """None if no key opens it, or it is another run's."""
    opened = seals.open(sealed, tenant=owner.organization_id, name=run_id.bytes)
    return opened.decode() if opened is not None else None
