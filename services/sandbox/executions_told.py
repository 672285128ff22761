"""What the audit trail is told of an execution: whose it was, what it was by its hash, how it went. Never the code."""

import hashlib
from collections.abc import Callable

from services.common.audit import Action, Happened, Trail
from services.common.audit import Outcome as Told
from services.common.errors import MeshError
from services.common.tokens import Caller
from services.sandbox.core.lifecycle import Outcome
from services.sandbox.execution import Exited


def teller(trail: Trail, who: Caller, code: bytes) -> Callable[[str, Exited | MeshError], None]:
    """Return what tells the trail when the execution has ended."""
    code_sha256 = hashlib.sha256(code).hexdigest()

    def tell(execution_id: str, result: Exited | MeshError) -> None:
        is_done = isinstance(result, Exited) and result.verdict.outcome in {Outcome.OK, Outcome.ERROR}
        trail.note(
            Happened(
                action=Action.CODE_EXECUTED,
                outcome=Told.ALLOWED if is_done else Told.FAILED,
                user_id=who.user_id,
                organization_id=who.organization_id,
                object=f"execution/{execution_id}",
                reason=result.reason if isinstance(result, MeshError) else result.verdict.outcome.name,
                details={"code_sha256": code_sha256, **_usage(result)},
            )
        )

    return tell


def _usage(result: Exited | MeshError) -> dict[str, str]:
    if isinstance(result, MeshError):
        return {}
    usage = result.usage
    return {
        "exit_code": str(result.verdict.exit_code),
        "wall_s": f"{usage.wall_s:.3f}",
        "cpu_s": f"{usage.cpu_s:.3f}",
        "peak_memory_bytes": str(usage.peak_memory_bytes),
    }
