"""The device grant: codes for a program and for its user, the user's answer, the program's polling."""

import secrets
import time
from dataclasses import dataclass, field

from authlib.oauth2.rfc8628.endpoint import create_string_user_code

from services.auth.by_address import ByAddress
from services.auth.codes import first_tokens
from services.auth.core.clients import Client, Grant
from services.auth.core.device import (
    INTERVAL_S,
    LIFETIME_S,
    WAITING_MAX,
    Device,
    Reply,
    decided,
    polled,
    user_code,
)
from services.auth.core.identity import Identity, ScopeNotHeld
from services.auth.core.refresh import Family, RefreshDigest
from services.auth.core.throttle import Throttle
from services.auth.errors import ClientNotAllowed, RateLimited
from services.auth.issuer import Issued
from services.auth.logins import Begun, Logins
from services.auth.ports_oauth import ClientStore, DeviceStore

CODE_BYTES = 32
TRIES_MAX = 5  # For a user code that nobody else has: with 20^8 of them the first will do.


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """What a program and its user are given."""

    device_code: str = field(repr=False)
    user_code: str = field(repr=False)  # `WDJB-MJHT`
    lifetime_s: float = LIFETIME_S
    interval_s: float = INTERVAL_S


class Devices:
    """The throttle bounds how many user codes somebody who is logged in may try: see core/throttle.py."""

    def __init__(
        self,
        *,
        store: DeviceStore,
        people: ClientStore,
        logins: Logins,
        digest: RefreshDigest,
        by_address: ByAddress,
    ) -> None:
        """`by_address` counts what anybody may begin: else one of them could have all that may wait wait for them."""
        self._store, self._people, self._logins, self._digest = store, people, logins, digest
        self._by_address, self._throttle = by_address, Throttle()

    async def begun(self, client: Client, scopes: frozenset[str]) -> Codes:
        """Raises ScopeNotHeld; RateLimited when too many wait already: of the client's, or begun at one address."""
        if not scopes <= client.scopes:
            raise ScopeNotHeld
        if client.is_public:
            self._by_address.take()
        for _ in range(TRIES_MAX):
            codes = Codes(device_code=secrets.token_urlsafe(CODE_BYTES), user_code=create_string_user_code())

            def make(now_s: float, codes: Codes = codes) -> Device:
                return Device(
                    digest=self._digest.of(codes.device_code.encode()),
                    user_code_digest=self._digest_of(codes.user_code),
                    client_id=client.client_id,
                    scopes=scopes or client.scopes,
                    expires_at_s=now_s + LIFETIME_S,
                )

            if await self._store.add_device(make, waiting_max=WAITING_MAX):
                return codes
        raise RateLimited(retry_after_s=INTERVAL_S)

    async def waiting(self, typed: str, identity: Identity) -> Device | None:
        """The device that waits under a code that a person has typed. Raises RateLimited when they only guess."""
        now_s = time.monotonic()
        self._throttle.attempt(identity.user_id, now_s=now_s)
        code = user_code(typed)
        device = await self._store.find_device(self._digest_of(code)) if code else None
        if device is not None:
            self._throttle.succeeded(identity.user_id)
        return device

    async def decide(self, typed: str, client: Client, identity: Identity, *, approved: bool) -> bool:
        """Whether the person's answer came in time. Raises ClientNotAllowed."""
        if not client.serves(identity.organization_id):
            raise ClientNotAllowed

        def decide(device: Device, now_s: float) -> Device | None:
            return decided(device, identity.user_id, now_s, approved=approved)

        code = user_code(typed)
        return code is not None and await self._store.decide_device(self._digest_of(code), decide) is not None

    async def polled(self, device_code: str, client: Client) -> Issued | Reply:
        """The program's tokens, or what it is told instead."""
        known_at_s = time.time()  # As in codes.py.
        begun: list[Begun] = []

        def decide(device: Device, now_s: float) -> tuple[Reply, Device, Family | None]:
            reply, device = polled(device, client.client_id, now_s)
            if reply is not Reply.GRANTED:
                return reply, device, None
            assert device.user_id is not None
            begun[:] = [self._logins.make(device.user_id, client, device.scopes, client.role_max, now_s)]
            return reply, device, begun[0].family

        found = await self._store.poll(self._digest.of(device_code.encode()), decide)
        if found is None:
            return Reply.INVALID
        if found[0] is not Reply.GRANTED:
            return found[0]
        return await first_tokens(
            begun[0], self._people, self._logins, client, Grant.DEVICE_CODE, known_at_s=known_at_s
        )

    def _digest_of(self, code: str) -> bytes:
        return self._digest.of(b"user code " + (user_code(code) or "").encode())
