"""Which service is calling: from its certificate, and nowhere else."""

from services.common.errors import PeerNotAllowed
from services.common.grpc.around import Check, Context
from services.common.inside import Inside
from services.common.peers import may_call

# gRPC fills it in for a verified certificate with exactly one URI, a valid SPIFFE ID.
SPIFFE_ID = "peer_spiffe_id"


def peer_service(context: Context) -> str | None:
    """Return the service that calls. None only where inside is plain text: with TLS, `peers` has let it in."""
    found = _spiffe_id(context)
    return found.rpartition("/")[2] if found is not None else None


def peers(inside: Inside) -> Check:
    """Let a call through if its caller is a service that may call this one. The first of all checks."""

    async def check(method: str, context: Context) -> None:
        found = _spiffe_id(context) or ""
        peer = found.removeprefix(inside.prefix)
        if peer == found or not may_call(inside.service, peer, method):
            raise PeerNotAllowed(peer=found or "unnamed")

    return check


def _spiffe_id(context: Context) -> str | None:
    values = context.auth_context().get(SPIFFE_ID)
    return next(iter(values)).decode() if values else None
