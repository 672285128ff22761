"""What must exist before anybody can log in: an organisation, an admin, a service account, a key.

Made once, at the first start. Later starts find them and change nothing, so a password that an admin has
changed stays changed whatever the environment says.
"""

import asyncio

import structlog

from services.auth.config import Config
from services.auth.core.client_secret import SecretDigest
from services.auth.core.identity import Identity, Role, service_user_id
from services.auth.core.keys import first_term
from services.auth.keyring import Keyring
from services.auth.ports import Founders, Hasher, Locksmith, SealedKey, ServiceAccount, Store, User
from services.auth.revocations import Revocations
from services.common.errors import StoreFailure
from services.common.policy import FOUNDING_ORGANIZATION

log = structlog.get_logger(__name__)

ADMIN_NAME = "admin"
SERVICE_CLIENT_ID = "ollamesh"
HOME = FOUNDING_ORGANIZATION  # Organisation and project of the founders.
RETRY_AFTER_S = 0.5


async def founded(store: Store, keyring: Keyring, revocations: Revocations, founders: Founders) -> None:
    """Return once the founders exist, and what is revoked and the keys are loaded, however long the store takes to come up."""
    while True:
        try:
            await store.found(founders)
            await revocations.load()  # Before the keys: without those nobody is let in.
            await keyring.load()
        except StoreFailure:
            await asyncio.sleep(RETRY_AFTER_S)
        else:
            log.info("founded")
            return


async def founders(config: Config, *, hasher: Hasher, digest: SecretDigest, locksmith: Locksmith) -> Founders:
    key_id, sealed = locksmith.make()
    return Founders(
        username=ADMIN_NAME,
        admin=User(
            _identity(f"user:{ADMIN_NAME}", Role.ADMIN, client_id="login"),
            await hasher.hash(config.admin_password),
        ),
        service=ServiceAccount(
            _identity(service_user_id(SERVICE_CLIENT_ID), Role.USER, client_id=SERVICE_CLIENT_ID),
            digest.of(config.service_client_secret),
        ),
        key=SealedKey(first_term(key_id), sealed),
    )


def _identity(user_id: str, role: Role, *, client_id: str) -> Identity:
    return Identity(user_id=user_id, role=role, organization_id=HOME, project_id=HOME, client_id=client_id)
