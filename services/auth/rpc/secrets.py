"""Secrets over gRPC; decides nothing but whose token says whose secret."""

from collections.abc import Mapping

from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import Secret

from services.auth.adapters.postgres_secrets import StoredSecret
from services.auth.core.request_digest import RequestDigest
from services.auth.rpc.asking import actor, asked, next_page_token, page
from services.auth.sealing import Resealing
from services.auth.secrets import Secrets
from services.common.grpc.around import Context
from services.common.grpc.caller import Verifier
from services.common.grpc.peer import peer_service


class SecretMethods:
    def __init__(
        self,
        secrets: Secrets,
        resealing: Resealing,
        digest: RequestDigest,
        *,
        verifiers: Mapping[str, Verifier],
        any_verifier: Verifier,
    ) -> None:
        """A service gets secrets of those only whose tokens are for it: `verifiers` are by service."""
        self._secrets, self._resealing, self._request_digest = secrets, resealing, digest
        self._verifiers, self._any_verifier = verifiers, any_verifier

    async def PutSecret(self, request: pb.PutSecretRequest, context: Context) -> pb.PutSecretResponse:
        named = asked(self._request_digest, request, request.request_id)
        readers = sorted(set(request.readers))
        stored = await self._secrets.put(actor(), request.name, request.value, readers, named)
        return pb.PutSecretResponse(secret=_secret(stored))

    async def GetSecret(self, request: pb.GetSecretRequest, context: Context) -> pb.GetSecretResponse:
        reader = peer_service(context)
        if reader is None:  # Plain text inside, by the development switch: nobody knows who asks.
            whose = await self._any_verifier.verify_any(request.subject_token)
        else:
            whose = await self._verifiers[reader].verify(request.subject_token)
        return pb.GetSecretResponse(value=await self._secrets.get(whose, request.name, reader))

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Context) -> pb.ListSecretsResponse:
        found = await self._secrets.page(actor(), page(request.page_size, request.page_token))
        return pb.ListSecretsResponse(
            secrets=map(_secret, found.items), next_page_token=next_page_token(found.next_after)
        )

    async def DeleteSecret(
        self, request: pb.DeleteSecretRequest, context: Context
    ) -> pb.DeleteSecretResponse:
        await self._secrets.delete(actor(), request.name)
        return pb.DeleteSecretResponse()

    async def ResealSecrets(
        self, request: pb.ResealSecretsRequest, context: Context
    ) -> pb.ResealSecretsResponse:
        done = await self._resealing.reseal()
        return pb.ResealSecretsResponse(
            key_id=done.key_id, resealed_count=done.resealed_count, unreadable_count=done.unreadable_count
        )


def _secret(stored: StoredSecret) -> Secret:
    return Secret(
        name=stored.name,
        readers=stored.readers,
        create_time=stored.create_time,
        update_time=stored.update_time,
        version=stored.version,
    )
