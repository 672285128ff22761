"""The pages' forms on one side, sign-in, codes and devices on the other.

A page leads on by a ticket (core/tickets.py), so nothing is remembered between its steps. To prove who one is
is a step of its own (`SignIn`): whatever other proof there will be comes back to `signed_in` with an identity.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from ollamesh.auth.v1.oauth_service_pb2 import (
    BeginFederatedSignInRequest,
    FinishFederatedSignInRequest,
    ShowDeviceRequest,
    ShowSignInRequest,
)

from services.auth import pages
from services.auth.clients import Clients
from services.auth.codes import Codes
from services.auth.core.clients import Client
from services.auth.core.codes import AuthorizationRequest, Refused, Unanswerable, answer, checked, client_of
from services.auth.core.forms import Form, read_cookie, read_form
from services.auth.core.identity import Identity
from services.auth.core.oauth import OAuthError
from services.auth.core.tickets import LIFETIME_S, Tickets
from services.auth.devices import Devices
from services.auth.errors import ClientNotAllowed, CredentialsInvalid, FederationRefused
from services.auth.federation import Federation
from services.auth.ports_oauth import ClientStore
from services.auth.rpc.http import HTML, Reply, header, send, site
from services.common.errors import Kind, MeshError
from services.common.grpc.around import Context

COOKIE = "ollamesh-page"
SIGN_IN, CONSENT, DEVICE, DEVICE_CONSENT = "sign-in", "consent", "device", "device-consent"
FEDERATED = "federated"
_WRONG = "That user name and password do not belong together."


class SignIn(Protocol):
    async def authenticated(self, username: str, password: str) -> Identity: ...


class _Stop(Exception):
    """A page that ends the matter."""

    def __init__(self, status: int, heading: str, text: str) -> None:
        super().__init__(heading)
        self.reply = Reply(
            body=pages.notice(heading, text), content_type=HTML, status=status, headers=pages.headers()
        )


class Pages:
    def __init__(  # noqa: PLR0913 - By name; app.py hands them over.
        self,
        *,
        issuer: str,
        sign_in: SignIn,
        clients: Clients,
        people: ClientStore,
        codes: Codes,
        devices: Devices,
        tickets: Tickets,
        federation: Federation | None,
        has_lost: Callable[[str, float], bool],
    ) -> None:
        """`has_lost`: whether a user has lost rights, or their password, since a time."""
        self._issuer, self._sign_in, self._clients, self._people = issuer, sign_in, clients, people
        self._codes, self._devices, self._tickets = codes, devices, tickets
        self._federation, self._has_lost = federation, has_lost

    # ---- Authorization ----------------------------------------------------------------------------

    async def asked(self, parameters: Mapping[str, list[str]], context: Context) -> Reply:
        """A client has sent a browser here."""
        try:
            client = await self._client(client_of(parameters))
            wanted = checked(parameters, client)
        except Unanswerable:
            raise _Stop(
                400, "This link is not valid", "The program that sent you here made a mistake."
            ) from None
        except Refused as no:
            return self._back(no.redirect_uri, no.state, error=no.code, error_description=no.description)
        return self._sign_in_page(client, wanted, context)

    async def submitted(self, form: Form, context: Context) -> Reply:
        if form.get("step") == "consent":
            return await self._consented(form, context)
        wanted = _wanted(self._opened(SIGN_IN, form, context))
        client = await self._client(wanted.client_id)
        known_at_s = time.time()
        try:
            identity = await self._sign_in.authenticated(form.get("username"), form.get("password"))
        except CredentialsInvalid:
            return self._sign_in_page(client, wanted, context, message=_WRONG, status=401)
        return await self.signed_in(wanted, client, identity, context, known_at_s=known_at_s)

    async def signed_in(
        self,
        wanted: AuthorizationRequest,
        client: Client,
        identity: Identity,
        context: Context,
        *,
        known_at_s: float,
    ) -> Reply:
        """A person has proved who they are, in whatever way; by what was known then."""
        if client.first_party:
            self._check_still(identity.user_id, known_at_s)
            return await self._granted(wanted, client, identity)
        nonce, headers = self._nonce(context)
        contents = {**_kept(wanted), "user_id": identity.user_id, "known_at_s": known_at_s}
        page = pages.consent(
            client,
            self._ticket(CONSENT, contents, nonce),
            user=identity.user_id,
            scopes=sorted(wanted.scopes),
            redirect_uri=wanted.redirect_uri,
        )
        return _html(page, headers, wanted.redirect_uri)

    async def sent_away(self, ticket: str, context: Context) -> Reply:
        """Somebody on the sign-in page rather proves it to the identity provider."""
        federation = self._federated()
        contents = self._came_back(SIGN_IN, ticket, context)
        nonce, headers = self._nonce(context)
        attempt = federation.attempt()
        state = self._ticket(FEDERATED, {**contents, "attempt": attempt}, nonce)
        where = await federation.begin(state, browser=nonce, attempt=attempt)
        return Reply(body=b"", content_type=HTML, status=303, headers=(("location", where), *headers))

    async def came_back(self, answer: Mapping[str, str], context: Context) -> Reply:
        """The identity provider has sent a browser back here."""
        federation = self._federated()
        contents = self._came_back(FEDERATED, answer.get("state", ""), context)
        wanted, (nonce, _) = _wanted(contents), self._nonce(context)
        client = await self._client(wanted.client_id)
        try:
            identity = await federation.finish(answer, browser=nonce, attempt=str(contents["attempt"]))
        except FederationRefused:
            message = f"{federation.title} did not confirm that you may sign in here."
            return self._sign_in_page(client, wanted, context, message=message, status=401)
        # After it was read: what the provider says may itself have changed the person's rights.
        return await self.signed_in(wanted, client, identity, context, known_at_s=time.time())

    def _federated(self) -> Federation:
        if self._federation is None:
            raise _Stop(404, "Not here", "People sign in here with a password.")
        return self._federation

    async def _consented(self, form: Form, context: Context) -> Reply:
        contents = self._opened(CONSENT, form, context)
        wanted = _wanted(contents)
        if form.get("decision") != "allow":
            return self._back(
                wanted.redirect_uri,
                wanted.state,
                error="access_denied",
                error_description="the user has refused",
            )
        return await self._granted(wanted, await self._client(wanted.client_id), await self._person(contents))

    async def _granted(self, wanted: AuthorizationRequest, client: Client, identity: Identity) -> Reply:
        try:
            code = await self._codes.given(wanted, client, identity)
        except ClientNotAllowed:
            description = "the user is not of the client's organisation"
            return self._back(
                wanted.redirect_uri, wanted.state, error="access_denied", error_description=description
            )
        return self._back(wanted.redirect_uri, wanted.state, code=code)

    def _sign_in_page(
        self,
        client: Client,
        wanted: AuthorizationRequest,
        context: Context,
        *,
        message: str = "",
        status: int = 200,
    ) -> Reply:
        nonce, headers = self._nonce(context)
        provider = self._federation.title if self._federation else ""
        ticket = self._ticket(SIGN_IN, _kept(wanted), nonce)
        page = pages.sign_in(client, ticket, provider=provider, message=message)
        return _html(page, headers, wanted.redirect_uri, status=status)

    def _back(self, redirect_uri: str, state: str | None, **told: str) -> Reply:
        """To the client, which learns who answers (RFC 9207)."""
        location = answer(redirect_uri, {**told, "state": state, "iss": self._issuer})
        # 303: the browser must not send the form, password and all, on to the client.
        return Reply(
            body=b"",
            content_type=HTML,
            status=303,
            headers=(("location", location), ("referrer-policy", "no-referrer")),
        )

    # ---- Devices ----------------------------------------------------------------------------------

    async def device_asked(self, user_code: str, context: Context) -> Reply:
        return self._device_page(user_code[:16], context)

    async def device_submitted(self, form: Form, context: Context) -> Reply:
        if form.get("step") == "consent":
            return await self._device_consented(form, context)
        self._opened(DEVICE, form, context)
        user_code, known_at_s = form.get("user_code")[:16], time.time()
        try:
            identity = await self._sign_in.authenticated(form.get("username"), form.get("password"))
        except CredentialsInvalid:
            return self._device_page(user_code, context, message=_WRONG, status=401)
        device = await self._devices.waiting(user_code, identity)
        if device is None:
            return self._device_page("", context, message="No device waits under that code.", status=404)
        client = await self._client(device.client_id)
        nonce, headers = self._nonce(context)
        contents = {
            "user_code": user_code,
            "client_id": client.client_id,
            "user_id": identity.user_id,
            "known_at_s": known_at_s,
        }
        page = pages.device_consent(
            client,
            self._ticket(DEVICE_CONSENT, contents, nonce),
            user=identity.user_id,
            scopes=sorted(device.scopes),
            user_code=user_code,
        )
        return _html(page, headers)

    async def _device_consented(self, form: Form, context: Context) -> Reply:
        contents = self._opened(DEVICE_CONSENT, form, context)
        client = await self._client(str(contents["client_id"]))
        identity = await self._person(contents)
        approved = form.get("decision") == "allow"
        try:
            in_time = await self._devices.decide(
                str(contents["user_code"]), client, identity, approved=approved
            )
        except ClientNotAllowed:
            raise _Stop(403, "Not allowed", "That program belongs to another organisation.") from None
        if not in_time:
            raise _Stop(404, "Too late", "The device does not wait any more. Start again there.")
        heading = "Connected" if approved else "Refused"
        page = pages.notice(heading, "You can close this page and go back to the device.")
        return _html(page, ())

    def _device_page(
        self, user_code: str, context: Context, *, message: str = "", status: int = 200
    ) -> Reply:
        nonce, headers = self._nonce(context)
        page = pages.device(self._ticket(DEVICE, {}, nonce), user_code=user_code, message=message)
        return _html(page, headers, status=status)

    # ---- What both need ---------------------------------------------------------------------------

    async def _client(self, client_id: str) -> Client:
        client = await self._clients.find(client_id)
        if client is None:
            raise _Stop(400, "This link is not valid", "The program that sent you here is not known.")
        return client

    async def _person(self, contents: Mapping[str, object]) -> Identity:
        """Who signed in some minutes ago, as they are now."""
        identity = await self._people.find_identity(str(contents["user_id"]))
        if identity is None:
            raise _Stop(403, "Not allowed", "This account cannot sign in.")
        known_at_s = contents["known_at_s"]
        assert isinstance(known_at_s, float)
        self._check_still(identity.user_id, known_at_s)
        return identity

    def _check_still(self, user_id: str, known_at_s: float) -> None:
        """A password that was changed meanwhile, by whoever found that it was stolen, is good for nothing here."""
        if self._has_lost(user_id, known_at_s):
            raise _Stop(403, "Sign in again", "Your password or your rights have changed meanwhile.")

    def _nonce(self, context: Context) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What ties a page to its browser, and the header that leaves it there. Other tabs share it."""
        here = site(context)
        nonce = read_cookie(header(context, "cookie"), here.cookie_name(COOKIE)) or secrets.token_urlsafe()
        if not here.may_keep_cookies:
            raise _Stop(400, "Use https", "A password must not be sent in clear over the network.")
        # Lax: who is sent here from elsewhere brings it along, so pages in other tabs stay good.
        cookie = here.cookie(COOKIE, nonce, path="/", same_site="Lax", lifetime_s=LIFETIME_S)
        return nonce, (("set-cookie", cookie),)

    def _ticket(self, purpose: str, contents: Mapping[str, object], nonce: str) -> str:
        return self._tickets.write(purpose, contents, nonce=nonce, now_s=time.time())

    def _opened(self, purpose: str, form: Form, context: Context) -> Mapping[str, object]:
        """What the page's ticket holds, if it was this site's page, in this browser, that sent the form."""
        if not site(context).is_own(header(context, "origin"), header(context, "sec-fetch-site")):
            raise _Stop(403, "Not from here", "The form was not sent by our own page.")
        return self._came_back(purpose, form.get("ticket"), context)

    def _came_back(self, purpose: str, ticket: str, context: Context) -> Mapping[str, object]:
        """What a ticket holds that was written for this browser."""
        nonce = read_cookie(header(context, "cookie"), site(context).cookie_name(COOKIE))
        if nonce is None:
            raise _Stop(
                403, "Not from here", "This is not the browser that was here before, or cookies are off."
            )
        contents = self._tickets.read(purpose, ticket, nonce=nonce, now_s=time.time())
        if contents is None:
            raise _Stop(400, "Too late", "This page has expired. Start again from the program that sent you.")
        return contents


class PageMethods:
    def __init__(self, shown: Pages) -> None:
        self._pages = shown

    async def ShowSignIn(self, request: ShowSignInRequest, context: Context) -> HttpBody:
        parameters = {field.name: list(values) for field, values in request.ListFields()}
        return await _shown(context, lambda: self._pages.asked(parameters, context))

    async def SubmitSignIn(self, request: HttpBody, context: Context) -> HttpBody:
        return await _shown(
            context, lambda: self._pages.submitted(read_form(request.content_type, request.data), context)
        )

    async def BeginFederatedSignIn(self, request: BeginFederatedSignInRequest, context: Context) -> HttpBody:
        return await _shown(context, lambda: self._pages.sent_away(_once(request).get("ticket", ""), context))

    async def FinishFederatedSignIn(
        self, request: FinishFederatedSignInRequest, context: Context
    ) -> HttpBody:
        return await _shown(context, lambda: self._pages.came_back(_once(request), context))

    async def ShowDevice(self, request: ShowDeviceRequest, context: Context) -> HttpBody:
        return await _shown(context, lambda: self._pages.device_asked(request.user_code, context))

    async def SubmitDevice(self, request: HttpBody, context: Context) -> HttpBody:
        return await _shown(
            context,
            lambda: self._pages.device_submitted(read_form(request.content_type, request.data), context),
        )


def _once(request: Message) -> dict[str, str]:
    """A query's parameters; one that is given twice means nothing."""
    found = {field.name: list(values) for field, values in request.ListFields()}
    return {name: values[0] for name, values in found.items() if len(values) == 1}


async def _shown(context: Context, work: Callable[[], Awaitable[Reply]]) -> HttpBody:
    """Show what `work` finds, and what fails as a page too."""
    try:
        reply = await work()
    except _Stop as stop:
        reply = stop.reply
    except OAuthError as error:
        reply = _Stop(400, "That did not work", error.description).reply
    except MeshError as error:
        status = 429 if error.kind is Kind.EXHAUSTED else 503
        stopped = _Stop(status, "Try again later", "We cannot do this just now.").reply
        wait = str(max(1, round(error.retry_after_s or 1)))
        reply = replace(stopped, headers=(*stopped.headers, ("retry-after", wait)))
    return await send(context, reply)


def _html(
    page: bytes, more: tuple[tuple[str, str], ...], redirect_uri: str = "", *, status: int = 200
) -> Reply:
    return Reply(body=page, content_type=HTML, status=status, headers=(*pages.headers(redirect_uri), *more))


def _kept(wanted: AuthorizationRequest) -> dict[str, object]:
    return {
        "client_id": wanted.client_id,
        "redirect_uri": wanted.redirect_uri,
        "scope": sorted(wanted.scopes),
        "code_challenge": wanted.code_challenge,
        "state": wanted.state,
    }


def _wanted(contents: Mapping[str, object]) -> AuthorizationRequest:
    """From a ticket, which only this service writes."""
    scopes, state = contents["scope"], contents["state"]
    assert isinstance(scopes, list)
    return AuthorizationRequest(
        client_id=str(contents["client_id"]),
        redirect_uri=str(contents["redirect_uri"]),
        scopes=frozenset(map(str, scopes)),
        code_challenge=str(contents["code_challenge"]),
        state=None if state is None else str(state),
    )
