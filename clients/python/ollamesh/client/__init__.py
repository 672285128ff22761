"""A typed, asynchronous client for an Ollamesh mesh.

    async with Client("http://127.0.0.1:8080", Password("admin", password)) as client:
        async for event in client.chat("smollm2:135m", "Why is the sky blue?"):
            match event:
                case chats.Delta(text=text):
                    print(text, end="", flush=True)

Events are frozen dataclasses and not the protobuf messages: they can be matched, compared and exhausted by
a type checker, durations are seconds and enums are words, and kinds of events that are newer than the
client are left out instead of half understood. What this client has no method for is called through the
generated stubs with the same tokens, deadlines and errors: Client.stub, Client.call, Client.stream.
"""

from ollamesh.client import (
    batches,
    capabilities,
    chats,
    executions,
    fleet,
    keys,
    library,
    quotas,
    runs,
    sessions,
)
from ollamesh.client.agent import Agent
from ollamesh.client.client import Client
from ollamesh.client.credentials import (
    AccessToken,
    ApiKey,
    ClientCredentials,
    Credentials,
    Password,
    SavedSession,
    Session,
    SessionStore,
    StaticToken,
)
from ollamesh.client.errors import CallError, Violation
from ollamesh.client.sandbox import Sandbox
from ollamesh.client.sandbox_session import SandboxSession

__all__ = [
    "AccessToken",
    "Agent",
    "ApiKey",
    "CallError",
    "Client",
    "ClientCredentials",
    "Credentials",
    "Password",
    "Sandbox",
    "SandboxSession",
    "SavedSession",
    "Session",
    "SessionStore",
    "StaticToken",
    "Violation",
    "batches",
    "capabilities",
    "chats",
    "executions",
    "fleet",
    "keys",
    "library",
    "quotas",
    "runs",
    "sessions",
]
