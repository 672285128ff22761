"""The verifier in a service: how often it asks for keys, what it remembers, whom the policy lets through."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from services.common.errors import AuthUnavailable, RoleRequired, ScopeRequired, TokenExpired, TokenInvalid
from services.common.grpc import caller as caller_module
from services.common.grpc.caller import Keys, Verifier, authentication, caller
from services.common.policy import FOUNDING_ORGANIZATION
from services.common.revoked import DenyList, Kind, Revocation

USER_METHOD = "/ollamesh.inference.v1.InferenceService/Chat"
ADMIN_METHOD = "/ollamesh.inference.v1.InferenceService/PurgeCache"
OPERATOR_METHOD = "/ollamesh.inference.v1.InferenceService/PullModel"
SERVICE_METHOD = "/ollamesh.auth.v1.AuthService/ReserveQuota"
PUBLIC_METHOD = "/ollamesh.auth.v1.AuthService/Login"


class Issuer:
    """An auth service that can be away, and counts how often it is asked."""

    def __init__(self) -> None:
        self.private = {"k1": ec.generate_private_key(ec.SECP256R1())}
        self.asked_count = 0
        self.away = False
        self.answering = asyncio.Event()
        self.answering.set()

    async def fetch(self) -> Keys:
        self.asked_count += 1
        await self.answering.wait()
        if self.away:
            raise AuthUnavailable
        jwks = {
            name: jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
            for name, key in self.private.items()
        }
        return {name: jwt.PyJWK(jwk, algorithm="ES256") for name, jwk in jwks.items()}

    def token(self, key_id: str = "k1", *, lifetime_s: int = 60, age_s: int = 0, **claims: Any) -> str:
        issued_s = int(time.time()) - age_s
        whole = {
            "iss": "i",
            "aud": ["inference"],
            "sub": "user:ann",
            "user_id": "user:ann",
            "client_id": "login",
            "role": "user",
            "org": "o",
            "project": "p",
            "scope": "inference",
            "iat": issued_s,
            "nbf": issued_s,
            "exp": issued_s + lifetime_s,
            "jti": "t",
            **claims,
        }
        private = self.private.get(key_id) or ec.generate_private_key(ec.SECP256R1())
        return jwt.encode(whole, private, algorithm="ES256", headers={"typ": "at+jwt", "kid": key_id})


@pytest.fixture
async def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def verifier(issuer: Issuer) -> Verifier:
    return Verifier(issuer.fetch, issuer="i", audience="inference")


async def test_keys_are_asked_for_once_however_many_wait(issuer: Issuer, verifier: Verifier) -> None:
    found = await asyncio.gather(*(verifier.verify(issuer.token(jti=f"t{n}")) for n in range(50)))
    assert len({caller.token_id for caller in found}) == 50
    assert issuer.asked_count == 1


async def test_a_flood_of_unknown_keys_is_one_question(issuer: Issuer, verifier: Verifier) -> None:
    await verifier.verify(issuer.token())
    for n in range(500):
        with pytest.raises(TokenInvalid):
            await verifier.verify(issuer.token(f"unknown{n}"))
    assert issuer.asked_count == 1


async def test_a_new_key_is_learned_when_a_token_names_it(
    issuer: Issuer,
) -> None:
    verifier = Verifier(issuer.fetch, issuer="i", audience="inference", refetch_after_s=0.0)
    await verifier.verify(issuer.token())
    issuer.private["k2"] = ec.generate_private_key(ec.SECP256R1())
    await verifier.verify(issuer.token("k2"))
    assert issuer.asked_count == 2


async def test_known_keys_serve_while_the_auth_service_is_away(issuer: Issuer, verifier: Verifier) -> None:
    await verifier.verify(issuer.token())
    issuer.away = True
    await verifier.verify(issuer.token(jti="another"))


async def test_without_any_key_the_caller_is_not_blamed(issuer: Issuer, verifier: Verifier) -> None:
    issuer.away = True
    with pytest.raises(AuthUnavailable):
        await verifier.verify(issuer.token())
    issuer.away = False
    await verifier.verify(issuer.token())


async def test_a_silent_auth_service_is_not_waited_for_once_per_caller(
    issuer: Issuer, verifier: Verifier
) -> None:
    issuer.away = True
    issuer.answering.clear()
    waiting = [asyncio.create_task(verifier.verify(issuer.token(jti=f"t{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    issuer.answering.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, AuthUnavailable) for answer in answers)
    assert issuer.asked_count <= 2


async def test_a_verified_token_is_remembered_until_it_expires(
    issuer: Issuer, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token(lifetime_s=60)
    first = await verifier.verify(token)
    assert await verifier.verify(token) is first
    later_s = time.time() + 60 + 30
    monkeypatch.setattr(time, "time", lambda: later_s)
    with pytest.raises(TokenExpired):
        await verifier.verify(token)


async def test_a_clock_that_is_set_back_forgets_nobody(
    issuer: Issuer, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token(lifetime_s=60)
    await verifier.verify(token)
    earlier_s = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: earlier_s)
    await verifier.verify(token)
    with pytest.raises(TokenInvalid):  # One that it has not seen is of the future, by that clock.
        await verifier.verify(issuer.token(jti="new", age_s=-3600))


async def test_what_is_revoked_is_refused_though_it_is_remembered(issuer: Issuer) -> None:
    denied = DenyList()
    verifier = Verifier(issuer.fetch, issuer="i", audience="inference", denied=denied)
    token, other = issuer.token(), issuer.token(jti="other")
    await verifier.verify(token)
    await verifier.verify(other)
    denied.add([Revocation(kind=Kind.TOKEN, id="t", forget_at_s=time.time() + 60)], now_s=time.time())
    for _ in range(2):
        with pytest.raises(TokenInvalid):
            await verifier.verify(token)
    with pytest.raises(TokenInvalid):
        await verifier.verify_any(token)
    await verifier.verify(other)


async def test_a_key_that_is_published_no_more_opens_nothing(issuer: Issuer, verifier: Verifier) -> None:
    """Nor what was verified by it and is remembered."""
    token = issuer.token()
    await verifier.verify(token)
    issuer.private["k2"] = issuer.private.pop("k1")
    await verifier.refresh()
    with pytest.raises(TokenInvalid):
        await verifier.verify(token)
    issuer.away = True
    with pytest.raises(AuthUnavailable):
        await verifier.refresh()
    await verifier.verify(issuer.token("k2"))


async def test_only_so_many_are_remembered(
    issuer: Issuer, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller_module, "CACHE_SIZE_MAX", 3)
    for n in range(10):
        await verifier.verify(issuer.token(jti=f"t{n}"))
    assert len(verifier._verified) == 3


class Call:
    """As much of a call's context as the policy reads."""

    def __init__(self, *authorization: str) -> None:
        self._metadata = tuple(("authorization", value) for value in authorization)

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return (("x-user-id", "user:root"), ("x-role", "admin"), *self._metadata)

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return {}  # Plain text.


async def enter(verifier: Verifier, method: str, *authorization: str) -> str:
    await authentication(verifier)(method, Call(*authorization))  # type: ignore[arg-type]
    return caller().user_id


async def test_the_policy_decides_by_the_token(issuer: Issuer, verifier: Verifier) -> None:
    user, admin = issuer.token(), issuer.token(role="admin", jti="a")
    service = issuer.token(sub="service:login", user_id="service:login", jti="s")
    scopeless, elsewhere = issuer.token(scope="", jti="n"), issuer.token(scope="auth inferences", jti="e")
    assert await enter(verifier, USER_METHOD, f"Bearer {user}") == "user:ann"
    assert await enter(verifier, ADMIN_METHOD, f"bearer {admin}") == "user:ann"
    operator = issuer.token(role="admin", org=FOUNDING_ORGANIZATION, jti="o")
    assert await enter(verifier, OPERATOR_METHOD, f"Bearer {operator}") == "user:ann"
    for token in (scopeless, elsewhere):
        with pytest.raises(ScopeRequired):
            await enter(verifier, USER_METHOD, f"Bearer {token}")
    for method, token in (
        (ADMIN_METHOD, user),
        (ADMIN_METHOD, service),
        (OPERATOR_METHOD, admin),
        (OPERATOR_METHOD, issuer.token(org=FOUNDING_ORGANIZATION, jti="p")),
        (SERVICE_METHOD, user),
        (SERVICE_METHOD, admin),
        (SERVICE_METHOD, service),
        ("/ollamesh.inference.v1.InferenceService/Unheard", admin),
    ):
        with pytest.raises(RoleRequired):
            await enter(verifier, method, f"Bearer {token}")


@pytest.mark.parametrize(
    ("peer", "insecure_inside", "enters"),
    [
        ("inference", False, True),
        ("inference", True, True),
        ("auth", False, False),
        ("edge", True, False),  # One that is known is never taken for another.
        ("", True, False),
        (None, True, True),
        (None, False, False),
    ],
)
async def test_a_method_for_services_is_for_those_that_its_row_names(
    verifier: Verifier,
    monkeypatch: pytest.MonkeyPatch,
    peer: str | None,
    insecure_inside: bool,  # noqa: FBT001
    enters: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(caller_module, "peer_service", lambda _: peer)
    check = authentication(verifier, insecure_inside=insecure_inside)
    with nullcontext() if enters else pytest.raises(RoleRequired):
        await check(SERVICE_METHOD, Call())  # type: ignore[arg-type]


async def test_a_public_method_needs_no_token(verifier: Verifier) -> None:
    await authentication(verifier)(PUBLIC_METHOD, Call("Bearer nonsense"))  # type: ignore[arg-type]


async def test_one_bearer_token_and_no_header_besides(issuer: Issuer, verifier: Verifier) -> None:
    good = f"Bearer {issuer.token()}"
    for authorization in (
        (),
        (good, good),
        ("Bearer",),
        ("Bearer ",),
        ("",),
        (good.replace("Bearer", "Basic"),),
    ):
        with pytest.raises(TokenInvalid):
            await enter(verifier, USER_METHOD, *authorization)
