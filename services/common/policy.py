"""Who may call which method: one row for each, in one table. What has no row is refused.

tests/architecture/test_policy.py fails when a method of a proto has no row here, or a row no method.
"""

from dataclasses import dataclass
from enum import Enum, auto


class Access(Enum):
    """What a caller needs. The audience and the scope are always the method's own service."""

    PUBLIC = auto()  # Nothing: the request itself carries the proof, or the answer is no secret.
    USER = auto()  # A valid token of any role.
    ADMIN = auto()  # Of their own organisation.
    OPERATOR = auto()  # An admin of the founding organisation: what it changes is everybody's.
    SERVICE = auto()  # To be one of the services that the row names, known by its certificate; no token.


WITH_TOKEN = frozenset({Access.USER, Access.ADMIN, Access.OPERATOR})
# The organisation that is there from the start, whose admins run the mesh.
FOUNDING_ORGANIZATION = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one method asks of its caller: all of it, and nothing else counts."""

    access: Access
    audience: str | None  # That the token must name; None where no token is asked for.
    scope: str | None  # That the token must hold. A scope names a service, for now.
    callers: frozenset[str] = frozenset()  # Of a SERVICE method: the services that may call it.


def _rows(service: str, access: Access, methods: str, *, callers: str = "") -> dict[str, Row]:
    wants_token = access in WITH_TOKEN
    name = (_SERVED_BY.get(service) or service.split(".")[1]) if wants_token else None
    row = Row(access=access, audience=name, scope=name, callers=frozenset(callers.split()))
    return {f"/{service}/{method}": row for method in methods.split()}


_AUTH = "ollamesh.auth.v1.AuthService"
_EXT_AUTHZ = "envoy.service.auth.v3.Authorization"
_OAUTH = "ollamesh.auth.v1.OAuthService"
_AGENT = "ollamesh.agent.v1.AgentService"
_INFERENCE = "ollamesh.inference.v1.InferenceService"
_HEALTH = "ollamesh.inference.v1.HealthService"
_SANDBOX = "ollamesh.sandbox.v1.SandboxService"
# REST, as other vendors' clients know it. The inference service serves both.
_OLLAMA = "ollamesh.compat.ollama.v1.OllamaService"
_OPENAI = "ollamesh.compat.openai.v1.OpenAIService"
_OPENAI_BATCH = "ollamesh.compat.openai.v1.OpenAIBatchService"
_SERVED_BY = dict.fromkeys((_OLLAMA, _OPENAI, _OPENAI_BATCH), "inference")

POLICY: dict[str, Row] = {
    **_rows("grpc.health.v1.Health", Access.PUBLIC, "Check Watch List"),
    **_rows("grpc.reflection.v1alpha.ServerReflection", Access.PUBLIC, "ServerReflectionInfo"),
    **_rows(
        _OAUTH,
        Access.PUBLIC,
        "GetServerMetadata GetJwks Token Revoke Introspect AuthorizeDevice ReportLeakedKey",
    ),
    **_rows(_OAUTH, Access.PUBLIC, "ShowSignIn SubmitSignIn ShowDevice SubmitDevice EndSession"),
    **_rows(_OAUTH, Access.PUBLIC, "BeginFederatedSignIn FinishFederatedSignIn"),
    **_rows(_AUTH, Access.PUBLIC, "Login ExchangeToken"),
    **_rows(
        _AUTH,
        Access.USER,
        "RevokeToken GetCaller CreateApiKey ListApiKeys RevokeApiKey SetPassword ListProjects GetQuota",
    ),
    **_rows(
        _AUTH,
        Access.ADMIN,
        "CreateUser ListUsers SetRole SetProject DisableUser EnableUser CreateServiceAccount "
        "ListServiceAccounts DisableServiceAccount CreateOAuthClient ListOAuthClients DisableOAuthClient "
        "CreateProject SetQuota PutSecret ListSecrets DeleteSecret ListAuditEvents",
    ),
    **_rows(
        _AUTH,
        Access.OPERATOR,
        "CreateOrganization ListOrganizations RotateSigningKey ResealSecrets VerifyAuditLog",
    ),
    # Envoy asks.
    **_rows(_EXT_AUTHZ, Access.SERVICE, "Check", callers="edge"),
    **_rows("envoy.service.ratelimit.v3.RateLimitService", Access.SERVICE, "ShouldRateLimit", callers="edge"),
    **_rows(_AUTH, Access.SERVICE, "ReserveQuota SettleQuota", callers="agent inference sandbox"),
    **_rows(_AUTH, Access.SERVICE, "GetSecret", callers="agent inference sandbox"),
    **_rows(_AUTH, Access.SERVICE, "CreateMandate RedeemMandate EndMandate", callers="agent"),
    **_rows(_AUTH, Access.SERVICE, "RecordAuditEvents", callers="auth agent inference sandbox edge"),
    **_rows(_AUTH, Access.SERVICE, "WatchRevocations", callers="auth agent inference sandbox"),
    **_rows(
        _AGENT,
        Access.USER,
        "CreateAssistant GetAssistant ListAssistants UpdateAssistant DeleteAssistant CreateThread GetThread "
        "ListThreads DeleteThread ListMessages ListCheckpoints StartRun StartRuns GetRun ListRuns CancelRun "
        "WatchRun SubmitApproval ListTools",
    ),
    **_rows(_HEALTH, Access.PUBLIC, "GetHealth"),
    **_rows(
        _INFERENCE,
        Access.USER,
        "Chat Generate Embed ResumeStream CancelStream ListModels GetModel GetFleet WatchFleet CreateBatch "
        "GetBatch ListBatches CancelBatch StreamBatchResults GetUsage",
    ),
    **_rows(_INFERENCE, Access.ADMIN, "PurgeCache"),
    **_rows(_INFERENCE, Access.OPERATOR, "PullModel DeleteModel CopyModel LoadModel UnloadModel"),
    **_rows(_OLLAMA, Access.USER, "Chat Generate Embed EmbedPrompt ListTags ListRunning GetVersion Show"),
    **_rows(_OLLAMA, Access.OPERATOR, "Pull Push Delete Copy Create CheckBlob PutBlob"),
    **_rows(
        _OPENAI, Access.USER, "CreateChatCompletion CreateCompletion CreateEmbedding ListModels GetModel"
    ),
    **_rows(
        _OPENAI_BATCH,
        Access.USER,
        "CreateFile ListFiles GetFile DeleteFile GetFileContent CreateBatch ListBatches GetBatch CancelBatch",
    ),
    **_rows(
        _SANDBOX,
        Access.USER,
        "Execute StartExecution GetExecution WatchExecution SendInput InterruptExecution KillExecution "
        "CreateSession GetSession ListSessions DeleteSession PutFile GetFile ListFiles DeleteFile "
        "GetCapabilities",
    ),
}
