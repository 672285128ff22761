"""Which client is speaking, and whether it is the one."""

from services.auth.core.client_secret import SecretDigest
from services.auth.core.clients import BUILT_IN, Client, Grant
from services.auth.core.forms import ClientProof
from services.auth.core.identity import is_client_id
from services.auth.errors import ClientNotAllowed, CredentialsInvalid
from services.auth.ports_oauth import ClientStore


class Clients:
    def __init__(self, store: ClientStore, digest: SecretDigest) -> None:
        self._store, self._digest = store, digest

    async def find(self, client_id: str) -> Client | None:
        """Built in, registered, or a service account."""
        if client_id in BUILT_IN:
            return BUILT_IN[client_id]
        return await self._store.find_client(client_id) if is_client_id(client_id) else None

    async def authenticated(self, proof: ClientProof, grant: Grant | None = None) -> Client:
        """The client, if it is the one and may use the grant. Raises CredentialsInvalid, ClientNotAllowed.

        Not throttled: nobody guesses 32 random bytes.
        """
        client = await self.find(proof.client_id)
        if client is not None and client.is_public:
            if proof.secret is not None:
                raise CredentialsInvalid
        elif (
            not self._digest.fits(client.secret_digest if client else None, proof.secret or "")
            or client is None
        ):
            raise CredentialsInvalid
        if grant is not None and grant not in client.grants:
            raise ClientNotAllowed
        return client
