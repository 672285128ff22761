"""Where a tenant's answers are kept, as the gateway sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class VaultAway(Exception):
    """It cannot be asked just now, or takes nothing."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """Between which purges something was looked for: one token for the tenant, one for its use of a model.

    Random, not counted, so that what was forgotten never comes back, even if the tokens are lost.
    """

    tenant: bytes
    model: bytes
    are_new: bool  # Nobody had set one of them: these are proposals.


@dataclass(frozen=True, slots=True)
class Found:
    """What is kept under some names, in their order, and the epochs in which it was looked for."""

    values: Sequence[bytes | None]
    epochs: Epochs


class Vault(Protocol):
    """Keeps values by tenant, model and name, for a time. Methods raise VaultAway."""

    async def find(self, tenant: str, model: str, names: Sequence[bytes]) -> Found:
        """Look once for all of `names`. What was kept before a purge is not found."""

    async def keep(
        self, tenant: str, model: str, epochs: Epochs, values: Sequence[tuple[bytes, bytes]]
    ) -> bool:
        """Keep values by name, unless a purge came after `epochs` were seen; return whether they are kept."""

    async def purge(self, tenant: str, model: str | None) -> None:
        """Forget what is kept for a tenant, or only of a model. At once, for all that share the vault."""
