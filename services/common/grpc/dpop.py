"""Proofs of a caller's key in a call's metadata: see services/common/dpop.py."""

import time
from collections.abc import Mapping
from contextvars import ContextVar

from services.common.dpop import Used, read_proof
from services.common.errors import TokenInvalid
from services.common.grpc.around import Check, Context
from services.common.tokens import Caller

KEY = "dpop"

_proven: ContextVar[str | None] = ContextVar("proven", default=None)


def proven_key() -> str | None:
    """The key that whoever asks for a token has proven to hold; None if he has not."""
    return _proven.get()


def proving(paths: Mapping[str, str | None]) -> Check:
    """For methods that issue tokens, and the paths by which REST knows them: remember what key a caller proves.

    A proof may come again here: whoever repeats another's gets a token that only the other can use.
    """

    async def check(method: str, context: Context) -> None:
        if method in paths and (proof := _proof(context)) is not None:
            known_as = {method, paths[method] or method}
            _proven.set(read_proof(proof, paths=known_as, now_s=time.time()).thumbprint)

    return check


def check_bound(found: Caller, used: Used, method: str, context: Context) -> None:
    """Raise TokenInvalid unless the bearer of a bound token proves, for this call, that the key is his."""
    if found.key_thumbprint is None:
        return
    text, now_s = _proof(context), time.time()
    if text is None:
        raise TokenInvalid
    proof = read_proof(text, paths={method}, now_s=now_s, access_token=found.token)
    if proof.thumbprint != found.key_thumbprint:
        raise TokenInvalid
    used.once(proof, now_s=now_s)


def _proof(context: Context) -> str | None:
    values = [value for key, value in context.invocation_metadata() or () if key == KEY]
    if len(values) > 1:
        raise TokenInvalid
    return str(values[0]) if values else None
