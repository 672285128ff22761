"""What admins do to models, told to the audit trail before it takes effect: unrecorded, it is not done."""

from services.common.audit import Action, Happened, Outcome, Trail
from services.common.grpc.caller import caller


class Acts:
    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    async def model(self, act: str, model: str) -> None:
        """The caller is about to `act` on a model. Raises AuditUnavailable."""
        await self._assure(Action.MODEL_CHANGED, f"model/{model}", act)

    async def purge(self, model: str) -> None:
        """The caller is about to purge the cache of their organisation, of a model or, if empty, of all."""
        await self._assure(Action.DATA_DELETED, f"cache/{model}", "purge")

    async def _assure(self, action: Action, object_: str, act: str) -> None:
        who = caller()
        await self._trail.assure(
            Happened(
                action=action,
                outcome=Outcome.ALLOWED,
                user_id=who.user_id,
                organization_id=who.organization_id,
                object=object_,
                details={"act": act},
            )
        )
