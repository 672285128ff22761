"""What is told of sessions and their files: to the metrics in numbers, to the audit trail by whose they are.

Never a name of a file, which may say as much as what is in it, and never what is in it.
"""

import hashlib
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.common.audit import Action, Happened, Outcome, Trail
from services.sandbox.core.sessions import Cause, Loss
from services.sandbox.session import Session


class SessionsTold:
    """The port `Told` of sessions."""

    def __init__(self, registry: CollectorRegistry, trail: Trail) -> None:
        self._trail = trail
        self._open = Gauge("ollamesh_sandbox_sessions", "Sessions that there are", registry=registry)
        self._ended = Counter(
            "ollamesh_sandbox_sessions_ended_total",
            "Sessions by why they ended",
            ("cause",),
            registry=registry,
        )
        self._restarts = Counter(
            "ollamesh_sandbox_session_restarts_total",
            "Interpreters of sessions that were lost and replaced, by why",
            ("cause",),
            registry=registry,
        )
        self._file_bytes = Counter(
            "ollamesh_sandbox_file_bytes_total",
            "Bytes of files written into sessions (put) and read from them (get)",
            ("direction",),
            registry=registry,
        )

    def count_by(self, count: Callable[[], int]) -> None:
        """Have the number of sessions be what `count` returns."""
        self._open.set_function(count)

    def created(self, session: Session) -> None:
        self._note(session, Action.SESSION_CREATED, profile=session.profile, engine=session.engine)

    def restarted(self, session: Session, why: Loss) -> None:  # noqa: ARG002 -- of whichever.
        self._restarts.labels(why.name).inc()

    def ended(self, session: Session) -> None:
        cause = session.cause or Cause.SHUTDOWN
        self._ended.labels(cause.name).inc()
        self._note(
            session,
            Action.SESSION_ENDED,
            reason=cause.name,
            restart_count=str(session.life.restart_count),
        )

    def put(self, session: Session, path: str, size_bytes: int) -> None:
        self._file_bytes.labels("put").inc(size_bytes)
        self._note(session, Action.FILE_WRITTEN, act="put", size_bytes=str(size_bytes), **_hash(path))

    def got(self, session: Session, path: str, size_bytes: int) -> None:
        """So many bytes were read, however the call ended."""
        self._file_bytes.labels("get").inc(size_bytes)
        self._note(session, Action.FILE_READ, size_bytes=str(size_bytes), **_hash(path))

    def deleted(self, session: Session, path: str) -> None:
        self._note(session, Action.FILE_WRITTEN, act="delete", **_hash(path))

    def _note(self, session: Session, action: Action, *, reason: str = "", **details: str) -> None:
        self._trail.note(
            Happened(
                action=action,
                outcome=Outcome.ALLOWED,
                user_id=session.owner.user_id,
                organization_id=session.owner.organization_id,
                object=f"session/{session.session_id}",
                reason=reason,
                details=details,
            )
        )


def _hash(path: str) -> dict[str, str]:
    return {"path_sha256": hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()}
