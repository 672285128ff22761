"""Which call goes where, how long it may last, and when it may be tried again.

Paths are gRPC methods, also for gRPC-Web and REST: both have become gRPC before a route is chosen. What
needs no token is what the services' own policy says; every other call needs one for the service it
names, and what is not named here goes nowhere.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryHostPredicate,
    Route,
    RouteAction,
    RouteActionHashPolicy,
    RouteActionHashPolicyHeader,
    RouteActionMaxStreamDuration,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import api_keys, compression, cors, ratelimits, tokens
from deploy.envoy.clusters import KEEPING, KEYS
from deploy.envoy.config import SERVICES, Edge
from services.common.policy import POLICY, Access

DEADLINE_S, LONG_DEADLINE_S = 300, 3600  # For calls that name none; also how long a stream may be silent.
DEADLINE_MAX = timedelta(seconds=LONG_DEADLINE_S)
RETRIES_MAX = 2
# Never processed, so safe for every method. A read may also be repeated after a refusal.
NOT_PROCESSED = "connect-failure,refused-stream"
READ = f"{NOT_PROCESSED},unavailable"
READS, WATCHES = "(?:Get|List)", "(?:Watch|Resume|StreamBatch)"
# Of services that keep something: needs nothing that is kept.
EXECUTE_PATH = "/ollamesh.sandbox.v1.SandboxService/Execute"
TLS = "tls"  # The listener.
HEALTH_PATH, HEALTH_DEADLINE_S = "/ollamesh.inference.v1.HealthService/GetHealth", 2
KEYS_PATH = "/ollamesh.auth.v1.OAuthService/GetJwks"

NOT_STORED = HeaderValueOption(header=HeaderValue(key="cache-control", value="no-store"))


def public(edge: Edge, listener: str) -> RouteConfiguration:
    """The routes of a listener for strangers, in the order in which they are tried."""
    open_methods = [path for path, row in POLICY.items() if row.access is Access.PUBLIC and _is_ours(path)]
    forwarded = [
        *(_open(path) for path in open_methods),
        *_inner(),
        *(route for name in SERVICES for route in _service(name)),
        *_compatible(),
    ]
    return _configuration(
        listener,
        [
            *compression.with_compressed(forwarded),
            _answer(
                "/", status=200, body="Ollama is running", methods="GET|HEAD"
            ),  # What its clients look for.
            _nothing(),
        ],
        cors={cors.FILTER: cors.policy(edge.cors_origins)},
        hsts_s=edge.tls.hsts_s if edge.tls is not None and listener == TLS else 0,
    )


def keys() -> RouteConfiguration:
    """The routes of the listener from which Envoy fetches the keys."""
    return _configuration("keys", [_open(KEYS_PATH), _nothing()], cors={})


def _configuration(
    name: str, routes: list[Route], *, cors: dict[str, Any], hsts_s: int = 0
) -> RouteConfiguration:
    host = VirtualHost(name=name, domains=["*"], routes=routes, typed_per_filter_config=cors)
    return RouteConfiguration(
        name=name,
        virtual_hosts=[host],
        response_headers_to_add=[_strict_transport(hsts_s)] if hsts_s else [],
        response_headers_to_remove=["grpc-accept-encoding", "x-envoy-upstream-service-time"],
    )


def _strict_transport(hsts_s: int) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key="strict-transport-security", value=f"max-age={hsts_s}"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _is_ours(path: str) -> bool:
    return path.startswith("/ollamesh.")


def _open(path: str) -> Route:
    """A method that needs no token."""
    cluster = KEYS if path == KEYS_PATH else path.split(".")[1]
    read = path.rpartition("/")[2].startswith("Get")
    deadline_s = HEALTH_DEADLINE_S if path == HEALTH_PATH else DEADLINE_S
    return Route(
        name=path,
        match=RouteMatch(path=path),
        route=_action(cluster, deadline_s, retry_on=READ if read else NOT_PROCESSED),
        request_headers_to_add=[_deadline(deadline_s), _origin()],
        response_headers_to_add=[NOT_STORED] if path == HEALTH_PATH else [],
        typed_per_filter_config={**_nobody(), ratelimits.DOOR_FILTER: ratelimits.door()},
    )


def _service(name: str) -> list[Route]:
    """A service's methods: those that watch, those that read, and all others."""
    package = rf"/ollamesh\.{name}\.v1\.\w+"
    keeps = name in KEEPING
    # Another replica would say that it knows of no such thing, and not that its own cannot be asked just now.
    read = NOT_PROCESSED if keeps else READ
    matches = [
        (f"{name}: watch", _regex(rf"{package}/{WATCHES}\w+"), LONG_DEADLINE_S, read, not keeps),
        (f"{name}: read", _regex(rf"{package}/{READS}\w+"), DEADLINE_S, read, not keeps),
        (f"{name}: other", RouteMatch(prefix=f"/ollamesh.{name}.v1."), DEADLINE_S, NOT_PROCESSED, not keeps),
    ]
    if keeps:
        matches.insert(0, (EXECUTE_PATH, RouteMatch(path=EXECUTE_PATH), DEADLINE_S, NOT_PROCESSED, True))
    return [
        Route(
            name=title,
            match=match,
            route=_action(name, deadline_s, retry_on=retry_on, elsewhere=elsewhere),
            request_headers_to_add=[_deadline(deadline_s)],
            request_headers_to_remove=[] if keeps else [tokens.USER_HEADER],
            typed_per_filter_config=_somebody(name),
            metadata=tokens.refusals(name),
        )
        for title, match, deadline_s, retry_on, elsewhere in matches
    ]


def _inner() -> list[Route]:
    """Methods that are for services alone: whoever comes this way finds that they are not there."""
    return [
        _unserved(path, RouteMatch(path=path)) for path, row in POLICY.items() if row.access is Access.SERVICE
    ]


def _compatible() -> list[Route]:
    """Ollama's and OpenAI's APIs, both of the inference service.

    Their callers set no deadline, so the service's own policy is to say when an answer takes too long: it can tell
    that in the stream, where Envoy could only break it off.
    """
    return [
        Route(
            name=title,
            match=match,
            route=_action("inference", LONG_DEADLINE_S, retry_on=retry_on),
            request_headers_to_add=[_deadline(LONG_DEADLINE_S)],
            request_headers_to_remove=[tokens.USER_HEADER],
            typed_per_filter_config=_somebody("inference"),
            metadata=tokens.refusals("inference"),
        )
        for title, match, retry_on in (
            ("rest: read", _regex(rf"/ollamesh\.compat\.\w+\.v1\.\w+/{READS}\w+"), READ),
            ("rest: other", RouteMatch(prefix="/ollamesh.compat."), NOT_PROCESSED),
        )
    ]


def _somebody(service: str) -> dict[str, Any]:
    """The route needs a token for that service, or a key that is changed for one."""
    return {api_keys.FILTER: api_keys.exchanged_for(service), tokens.FILTER: tokens.required(service)}


def _nobody() -> dict[str, Any]:
    return {api_keys.FILTER: api_keys.none_needed(), tokens.FILTER: tokens.none_required()}


def _action(cluster: str, deadline_s: int, *, retry_on: str, elsewhere: bool = True) -> RouteAction:
    """Forward for as long as the call's own deadline says; without one, as long as we would give it.

    `elsewhere`: what is tried again is tried at another replica.
    """
    return RouteAction(
        cluster=cluster,
        hash_policy=_by_user() if cluster in KEEPING else [],
        timeout=timedelta(0),  # The default of 15 s would cut streams.
        idle_timeout=timedelta(seconds=deadline_s),
        max_stream_duration=RouteActionMaxStreamDuration(
            max_stream_duration=timedelta(seconds=deadline_s), grpc_timeout_header_max=DEADLINE_MAX
        ),
        retry_policy=RetryPolicy(
            retry_on=retry_on,
            num_retries=RETRIES_MAX,
            retry_host_predicate=[_elsewhere()] if elsewhere else [],
            # A dead replica has the least to do, so it is picked again and again until it is put aside.
            host_selection_retry_max_attempts=10,
        ),
    )


def _elsewhere() -> RetryPolicyRetryHostPredicate:
    return RetryPolicyRetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=Any.pack(PreviousHostsPredicate())
    )


def _by_user() -> list[RouteActionHashPolicy]:
    """One replica for all calls of a user, as long as it is fit: it has the user's sessions and executions."""
    header = RouteActionHashPolicyHeader(header_name=tokens.USER_HEADER)
    return [RouteActionHashPolicy(header=header)]


def _deadline(seconds: int) -> HeaderValueOption:
    """For callers that set none, such as browsers: the services refuse to work without."""
    return HeaderValueOption(
        header=HeaderValue(key="grpc-timeout", value=f"{seconds}S"),
        append_action=HeaderValueOptionHeaderAppendAction.ADD_IF_ABSENT,
    )


def _origin() -> HeaderValueOption:
    """Where a browser believes itself to be: its pages must be of that origin. Callers cannot set it (listeners.py)."""
    return HeaderValueOption(
        header=HeaderValue(key="x-ollamesh-origin", value="%REQ(X-FORWARDED-PROTO)%://%REQ(:AUTHORITY)%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _answer(path: str, *, status: int, body: str, methods: str = ".*") -> Route:
    asked = HeaderMatcher(name=":method", string_match=StringMatcher(safe_regex=RegexMatcher(regex=methods)))
    return Route(
        name=path,
        match=RouteMatch(path=path, headers=[asked]),
        direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=body)),
        typed_per_filter_config=_nobody(),
    )


def _nothing() -> Route:
    """Reflection, health, and what does not exist: gRPC callers read UNIMPLEMENTED."""
    return _unserved("nothing", RouteMatch(prefix="/"))


def _unserved(name: str, match: RouteMatch) -> Route:
    return Route(
        name=name,
        match=match,
        direct_response=DirectResponseAction(status=404),
        typed_per_filter_config=_nobody(),
    )


def _regex(pattern: str) -> RouteMatch:
    return RouteMatch(safe_regex=RegexMatcher(regex=pattern))
