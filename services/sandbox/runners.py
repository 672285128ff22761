"""Where a program is run: in a fresh jail, or in the session that its caller names."""

from services.common.errors import InvalidRequest, Violation
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.owners import Owner
from services.sandbox.engine import Engine
from services.sandbox.fresh import Fresh
from services.sandbox.in_session import InSession
from services.sandbox.running import Runner
from services.sandbox.sessions import Sessions


class AllRunners:
    """The port `Runners`."""

    def __init__(self, engine: Engine, catalogue: Catalogue, sessions: Sessions) -> None:
        self._engine, self._catalogue, self._sessions = engine, catalogue, sessions

    def find(self, owner: Owner, *, session_id: str, engine: str, profile: str) -> Runner:
        """Raises SessionNotFound, InvalidRequest if the session has another engine or profile, and as Catalogue.find."""
        if not session_id:
            return Fresh(self._engine, self._catalogue.find(engine=engine, profile=profile))
        session = self._sessions.get(owner, session_id)
        wrong = [
            Violation(f"spec.{field}", f"is not the session's, which is {own}", field)
            for field, asked, own in (
                ("engine", engine, session.engine),
                ("profile", profile, session.profile),
            )
            if asked not in {"", own}
        ]
        if wrong:
            raise InvalidRequest(wrong)
        return InSession(self._engine, session)
