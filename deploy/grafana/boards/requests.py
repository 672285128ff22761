"""Requests and the service levels: what callers get, at the edge and from models."""

from deploy.grafana.board import Board, Choice, Section
from deploy.grafana.panels import Limits, Panel, Query, quantiles
from deploy.grafana.promql import increase, or_zero, quantile, rate, total
from deploy.prometheus.files import SLOS
from deploy.prometheus.slo_rules import read

PUBLIC = 'envoy_http_conn_manager_prefix=~"public|tls"'
OF_MODEL = 'gen_ai_request_model=~"$model"'
CHATS = f'{OF_MODEL}, gen_ai_operation_name!="embeddings"'
DURATION = "gen_ai_server_request_duration_seconds"
FIRST, EACH = "gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds"
TOKENS = "gen_ai_client_token_usage"

BURN_FAST, BURN_SLOW = 14.4, 3.0  # As the alerts have them (deploy/prometheus).


def burns(window: str) -> tuple[Query, ...]:
    """How many times faster than it may each objective's budget is spent, by the rules of deploy/prometheus."""
    return tuple(
        Query(expr=f'max(slo:errors:ratio_{window}{{slo="{slo.name}"}}) / {slo.budget:g}', legend=slo.name)
        for slo in read(SLOS.read_text())
    )


LEVELS = Section(
    title="Service levels",
    panels=(
        Panel(
            title="Error budget left",
            about="Of the last 30 days. 100 %: nothing failed; below 0 %: the objective is missed. docs/slo.md has the objectives.",
            queries=(Query(expr="max by (slo) (slo:error_budget:remaining)", legend="{{slo}}"),),
            unit="percentunit",
            kind="stat",
            width=24,
            height=5,
            limits=Limits(warn=0.25, bad=0, falling=True),
            runbook="errors",
            none="no rule has been evaluated yet",
        ),
        Panel(
            title="How fast budgets burn, over an hour",
            about="1: just as fast as they may. 14.4: gone in two days, which pages.",
            queries=burns("1h"),
            unit="none",
            width=12,
            decimals=2,
            limits=Limits(warn=BURN_SLOW, bad=BURN_FAST),
            runbook="errors",
            none="nothing has been asked yet",
        ),
        Panel(
            title="How fast budgets burn, over six hours",
            about="1: just as fast as they may. 6 pages.",
            queries=burns("6h"),
            unit="none",
            width=12,
            decimals=2,
            limits=Limits(warn=1, bad=6),
            runbook="errors",
            none="nothing has been asked yet",
        ),
        Panel(
            title="Share of bad events, over five minutes",
            about="What the budgets are spent on: failed requests, slow first tokens, failed runs, refused executions.",
            queries=(Query(expr="max by (slo) (slo:errors:ratio_5m)", legend="{{slo}}"),),
            unit="percentunit",
            width=12,
            runbook="errors",
            none="nothing has been asked yet",
        ),
        Panel(
            title="Alerts that fire",
            about="All of them, those of other boards too.",
            queries=(
                Query(
                    expr='count by (alertname, severity) (ALERTS{alertstate="firing"})',
                    legend="{{severity}}: {{alertname}}",
                ),
            ),
            unit="none",
            kind="stacked",
            width=12,
            runbook="monitoring",
            none="none fires",
        ),
    ),
)

EDGE = Section(
    title="At the edge",
    panels=(
        Panel(
            title="Requests, by class of status",
            about="All that Envoy answered, REST and gRPC; gRPC failures are 200 here and stand below by code.",
            queries=(
                Query(
                    expr=rate("envoy_http_downstream_rq_xx", PUBLIC, by=["envoy_response_code_class"]),
                    legend="{{envoy_response_code_class}}xx",
                ),
            ),
            unit="reqps",
            kind="stacked",
            runbook="errors",
        ),
        Panel(
            title="gRPC calls that failed, by code",
            about="Of all services. UNAVAILABLE and INTERNAL are ours; INVALID_ARGUMENT and NOT_FOUND are the callers'.",
            queries=(
                Query(expr=rate("ollamesh_rpc_handled_total", 'code!="OK"', by=["code"]), legend="{{code}}"),
            ),
            unit="reqps",
            kind="stacked",
            runbook="errors",
            none="no call failed",
        ),
        Panel(
            title="Turned away at the door",
            about="Tokens that are not valid, and callers over their rate.",
            queries=(
                Query(
                    expr=rate("envoy_http_jwt_authn_denied", PUBLIC),
                    legend="token refused",
                ),
                Query(
                    expr=rate("envoy_http_ext_authz_denied", PUBLIC),
                    legend="key refused",
                ),
                Query(
                    expr=or_zero(rate("ollamesh_auth_rate_limit_answers_total", 'answer!="allowed"')),
                    legend="over its rate",
                ),
            ),
            unit="reqps",
            runbook="auth-down",
        ),
        Panel(
            title="Time of requests at the edge",
            about="Whole answers, streams included: long is not slow. Compare with the first token below.",
            queries=tuple(
                Query(expr=quantile(share, "envoy_http_downstream_rq_time", PUBLIC), legend=name)
                for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
            unit="ms",
        ),
        Panel(
            title="Open requests and connections",
            about="Streams that are open count as requests.",
            queries=(
                Query(expr=total("envoy_http_downstream_rq_active", PUBLIC), legend="requests"),
                Query(expr=total("envoy_http_downstream_cx_active", PUBLIC), legend="connections"),
            ),
            unit="none",
            runbook="overload",
        ),
        Panel(
            title="Trouble behind the edge",
            about="Retries and overflows by cluster; nothing here in good times.",
            queries=(
                Query(
                    expr=rate("envoy_cluster_upstream_rq_retry", by=["envoy_cluster_name"]),
                    legend="{{envoy_cluster_name}}: retried",
                ),
                Query(
                    expr=rate("envoy_cluster_upstream_rq_pending_overflow", by=["envoy_cluster_name"]),
                    legend="{{envoy_cluster_name}}: overflow",
                ),
                Query(
                    expr=rate("envoy_cluster_upstream_rq_timeout", by=["envoy_cluster_name"]),
                    legend="{{envoy_cluster_name}}: timed out",
                ),
            ),
            unit="reqps",
            runbook="errors",
        ),
    ),
)

ANSWERS = Section(
    title="Answers of models",
    panels=(
        Panel(
            title="Requests, by model",
            about="Ended, whether well or not.",
            queries=(
                Query(
                    expr=rate(f"{DURATION}_count", OF_MODEL, by=["gen_ai_request_model"]),
                    legend="{{gen_ai_request_model}}",
                ),
            ),
            unit="reqps",
            kind="stacked",
        ),
        Panel(
            title="Requests that failed, by reason",
            about="As callers are told. INSTANCE_LOST and STREAM_STALLED: look at the fleet.",
            queries=(
                Query(
                    expr=rate(f"{DURATION}_count", f'{OF_MODEL}, error_type!=""', by=["error_type"]),
                    legend="{{error_type}}",
                ),
            ),
            unit="reqps",
            kind="stacked",
            runbook="errors",
            none="none failed",
        ),
        Panel(
            title="First token",
            about="From arrival to the first token: queue wait, loading, and reading the prompt.",
            queries=quantiles(FIRST, CHATS),
            unit="s",
            limits=Limits(warn=2, bad=10),
            runbook="latency",
        ),
        Panel(
            title="Each further token",
            about="What a reader sees as speed: 0.1 s is 10 tokens a second.",
            queries=quantiles(EACH, CHATS),
            unit="s",
            limits=Limits(warn=0.1, bad=0.25),
            runbook="latency",
        ),
        Panel(
            title="Whole answers",
            about="Of requests that succeeded.",
            queries=quantiles(DURATION, f'{OF_MODEL}, error_type=""'),
            unit="s",
            runbook="latency",
        ),
        Panel(
            title="How first tokens are spread",
            about="A second band far above the first: models that had to be loaded.",
            queries=(Query(expr=increase(f"{FIRST}_bucket", CHATS, by=["le"]), legend="{{le}}"),),
            unit="s",
            kind="heat",
        ),
        Panel(
            title="Tokens",
            about="Read (input) and written (output) by models, agents' steps not counted twice.",
            queries=(
                Query(
                    expr=rate(f"{TOKENS}_sum", f'job="inference", {OF_MODEL}', by=["gen_ai_token_type"]),
                    legend="{{gen_ai_token_type}}",
                ),
            ),
            unit="short",
        ),
        Panel(
            title="Cache",
            about="Lookups by result. Hits that collapse while traffic is the same: a new model digest, or Redis is away.",
            queries=(Query(expr=rate("ollamesh_cache_lookups_total", by=["result"]), legend="{{result}}"),),
            unit="reqps",
            kind="stacked",
            runbook="cache-collapse",
        ),
        Panel(
            title="Streams",
            about="Open here; read again after a lost connection; shared; taken over from a lost process.",
            queries=(
                Query(expr=total("ollamesh_streams_open"), legend="open"),
                Query(expr=or_zero(increase("ollamesh_stream_resumes_total")), legend="resumed"),
                Query(expr=or_zero(increase("ollamesh_stream_joins_total")), legend="joined"),
                Query(expr=or_zero(increase("ollamesh_stream_takeovers_total")), legend="taken over"),
            ),
            unit="none",
        ),
    ),
)

BOARD = Board(
    name="requests",
    title="requests and service levels",
    about="What callers get: errors, first tokens, speed, and how fast the error budgets are being spent.",
    choices=(Choice(name="model", label="Model", metric=f"{DURATION}_count", of="gen_ai_request_model"),),
    sections=(LEVELS, EDGE, ANSWERS),
)
