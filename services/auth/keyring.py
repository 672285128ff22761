"""The signing keys in memory: what signs now, what is published, kept in step with the store.

Once loaded, nothing here needs the store: it may be away for hours and tokens are still verified.
A stored key that cannot be opened is left out and complained about, so a forged row ends nobody's work.
"""

import time
from collections.abc import Callable, Sequence

import structlog

from services.auth.core.claims import Claims
from services.auth.core.keys import Term, published, signing
from services.auth.core.oauth import jwk_set
from services.auth.ports import Locksmith, SealedKey, SigningKey, Store
from services.common.errors import StoreUnavailable
from services.common.grpc.caller import Keys
from services.common.grpc.keys import parse_keys

log = structlog.get_logger(__name__)


class Keyring:
    """Until the first `load` it holds nothing and every question raises StoreUnavailable."""

    def __init__(
        self,
        store: Store,
        locksmith: Locksmith,
        *,
        clock: Callable[[], float] = time.time,
        proven_key: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`proven_key`: the thumbprint of the key that whoever is being answered has proven to hold."""
        self._store, self._locksmith, self._clock, self._proven_key = store, locksmith, clock, proven_key
        self._keys: dict[Term, SigningKey] = {}
        self.stored: Sequence[SealedKey] = ()  # As they were loaded, those that cannot be opened too.

    async def load(self) -> None:
        """Raises StoreFailure. A key that was opened once stays open, however it is sealed now."""
        stored = await self._store.signing_keys()
        known = {key.key_id: key for key in self._keys.values()}
        opened = {key.term: known.get(key.term.key_id) or self._opened(key) for key in stored}
        self._keys = {term: key for term, key in opened.items() if key is not None}
        self.stored = stored

    @property
    def terms(self) -> list[Term]:
        """Of the keys that can be used."""
        return list(self._keys)

    def sign(self, claims: Claims) -> str:
        term = signing(self._keys, self._clock())
        if term is None:
            raise StoreUnavailable
        # Here, so that no grant can forget it.
        if (thumbprint := self._proven_key()) is not None:
            claims = {**claims, "cnf": {"jkt": thumbprint}}
        return self._keys[term].sign(claims)

    def jwks(self) -> bytes:
        """The published keys (RFC 7517)."""
        if not self.usable:
            raise StoreUnavailable
        return jwk_set([self._keys[term].public_jwk for term in published(self._keys, self._clock())])

    async def verification_keys(self) -> Keys:
        """The published keys for this service's own verifier, which needs no network for them."""
        return parse_keys(self.jwks())

    @property
    def usable(self) -> bool:
        return signing(self._keys, self._clock()) is not None

    def _opened(self, stored: SealedKey) -> SigningKey | None:
        key = self._locksmith.open(stored.term.key_id, stored.sealed)
        if key is None:
            log.error(
                "signing_key_unreadable", key_id=stored.term.key_id, mend="add its key to ENCRYPTION_KEY"
            )
        return key
