"""The vault, in the Redis that the replicas share.

    ollamesh:cache:e:NAME   an epoch's token, of a tenant or of its use of a model; a purge sets another one
    ollamesh:cache:v:NAME   a sealed value, which begins with the two tokens that it was kept under

Looking is one MGET of both tokens and the values: whoever purges sets a token, and from then on no replica finds what
was kept under the last one. Names are HMACs, values are sealed and bound to their names (services/common/seals.py): one that
does not open was forged, moved, or sealed with a key that is gone.
"""

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog

from services.common.seals import Seals
from services.inference.adapters.redis_link import Command, RedisAway, RedisLink
from services.inference.core.secret_names import Names
from services.inference.vault import Epochs, Found, VaultAway

TOKEN_BYTES = 16
# Of a token that nobody uses. Longer than any value lives: what was purged is gone before its successor is.
TOKENS_KEPT_S = 24 * 3600
KEPT_S_MAX = 3600
KEPT_AT_ONCE = 64  # Values that travel together.

log = structlog.get_logger(__name__)


class RedisVault:
    """Keeps values for `kept_s`. `alert` is told of each that is not what it should be."""

    def __init__(
        self, link: RedisLink, *, names: Names, seals: Seals, kept_s: float, alert: Callable[[], None]
    ) -> None:
        assert kept_s <= KEPT_S_MAX < TOKENS_KEPT_S, "no value outlives a purge's token"
        self._link = link
        self._names = names
        self._seals = seals
        self._kept_ms = int(kept_s * 1000)
        self._alert = alert

    async def find(self, tenant: str, model: str, names: Sequence[bytes]) -> Found:
        tokens = self._token_keys(tenant, model)
        keys = [self._value_key(tenant, name) for name in names]
        ((by_tenant, by_model, *sealed),) = await self._asked(("MGET", *tokens, *keys))
        is_known = _is_token(by_tenant) and _is_token(by_model)
        epochs = Epochs(
            tenant=by_tenant if _is_token(by_tenant) else secrets.token_bytes(TOKEN_BYTES),
            model=by_model if _is_token(by_model) else secrets.token_bytes(TOKEN_BYTES),
            are_new=not is_known,
        )
        if not is_known:  # Nothing was kept, or it was lost; either way there is nothing to look at.
            return Found([None] * len(keys), epochs)
        opened = [
            None if value is None else self._seals.open(value, tenant=tenant, name=key)
            for key, value in zip(keys, sealed, strict=True)
        ]
        forged = [
            key
            for key, value, data in zip(keys, sealed, opened, strict=True)
            if value is not None and data is None
        ]
        if forged:
            await self._refuse(forged)
        now = epochs.tenant + epochs.model
        return Found([data[len(now) :] if data and data.startswith(now) else None for data in opened], epochs)

    async def keep(
        self, tenant: str, model: str, epochs: Epochs, values: Sequence[tuple[bytes, bytes]]
    ) -> bool:
        tokens = self._token_keys(tenant, model)
        if epochs.are_new and not await self._begun(tokens, epochs):
            return False
        now = epochs.tenant + epochs.model
        for start in range(0, len(values), KEPT_AT_ONCE):
            commands: list[Command] = [("PEXPIRE", token, TOKENS_KEPT_S * 1000) for token in tokens]
            for name, value in values[start : start + KEPT_AT_ONCE]:
                key = self._value_key(tenant, name)
                sealed = self._seals.seal(now + value, tenant=tenant, name=key)
                commands.append(("SET", key, sealed, "PX", self._kept_ms))
            await self._asked(*commands)
        return True

    async def purge(self, tenant: str, model: str | None) -> None:
        by_tenant, by_model = self._token_keys(tenant, model or "")
        token = secrets.token_bytes(TOKEN_BYTES)
        await self._asked(("SET", by_tenant if model is None else by_model, token, "EX", TOKENS_KEPT_S))

    async def _begun(self, tokens: Sequence[bytes], epochs: Epochs) -> bool:
        """Set the tokens that were proposed where there are none; return whether they hold now."""
        proposed = (epochs.tenant, epochs.model)
        *_, now = await self._asked(
            *(
                ("SET", key, token, "NX", "EX", TOKENS_KEPT_S)
                for key, token in zip(tokens, proposed, strict=True)
            ),
            ("MGET", *tokens),
        )
        return tuple(now) == proposed

    async def _refuse(self, forged: Sequence[bytes]) -> None:
        for _ in forged:
            self._alert()
        log.error("cache_value_refused", count=len(forged))
        with suppress(VaultAway):
            await self._asked(("UNLINK", *forged))

    async def _asked(self, *commands: Command) -> list[Any]:
        try:
            return await self._link.ask(*commands)
        except RedisAway:
            raise VaultAway from None

    def _token_keys(self, tenant: str, model: str) -> tuple[bytes, bytes]:
        return (
            b"ollamesh:cache:e:" + self._names.name(tenant, b"tenant").hex().encode(),
            b"ollamesh:cache:e:" + self._names.name(tenant, b"model\0" + model.encode()).hex().encode(),
        )

    def _value_key(self, tenant: str, name: bytes) -> bytes:
        return b"ollamesh:cache:v:" + self._names.name(tenant, b"value\0" + name).hex().encode()


def _is_token(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == TOKEN_BYTES
